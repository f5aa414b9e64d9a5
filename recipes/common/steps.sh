# shellcheck shell=sh disable=SC2034,SC2086 # variables are for the recipes; some hold several words
# What the recipes' `run` scripts share. Each sets `here` and `name` and sources this file.
#
# Variables of the user: RUN; DEVICES; SET, more options of `nmtasync train`; DATA, a folder that
# has the downloads, or the URL of a mirror; SMALL=1, a slice of the corpora and a small model.

DATA=${DATA:-}
SET=${SET:-}
settings=$here/$name.toml
slice=
small=
case ${SMALL:-0} in
0) ;;
*)
    settings=$here/small.toml
    slice='--max-lines 2000'
    small=-small
    ;;
esac
RUN=${RUN:-runs/${experiment:-$name}$small}
corpus=$RUN-corpus
raw=$corpus/raw
common=$(dirname "$here")/common
previous=

# say COMMAND...: print a command and run it.
say() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# step OUTPUT COMMAND...: run a command that writes OUTPUT last, unless OUTPUT is there and no older
# than the output of the step before.
step() {
    output=$1
    shift
    if [ -e "$output" ] && { [ -z "$previous" ] || [ ! "$output" -ot "$previous" ]; }; then
        printf '\n# done: %s\n' "$*"
    else
        say "$@"
    fi
    previous=$output
}

# fetch: see that the downloads are there, or get them; knows by itself what is done.
fetch() {
    downloads=runs/downloads/$name
    case $DATA in
    '') say python "$common/fetch.py" "$here/sources.toml" "$downloads" ;;
    http://* | https://* | ftp://*)
        say python "$common/fetch.py" "$here/sources.toml" "$downloads" --mirror "$DATA"
        ;;
    *)
        downloads=${DATA#file://}
        say python "$common/fetch.py" "$here/sources.toml" "$downloads" --offline
        ;;
    esac
}

# extract: take the texts out of the downloads.
extract() {
    step "$raw" python "$common/extract.py" "$here/sources.toml" "$downloads" "$raw" $slice
}

# train: goes on where it was interrupted, and knows by itself if it is finished.
train() {
    say nmtasync train "$RUN" --config "$settings" ${DEVICES:+--devices "$DEVICES"} $SET
    previous=$RUN/checkpoints/best
}
