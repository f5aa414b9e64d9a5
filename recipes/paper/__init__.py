"""The ablation of Bogoychev et al. 2018, on any preprocessed corpus."""
