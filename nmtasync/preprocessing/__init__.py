"""The stage `preprocess`: from raw parallel text to a vocabulary and a binarised corpus."""
