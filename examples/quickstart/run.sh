#!/bin/sh
# The quickstart, start to end: a small shop's raw files to recommendations.
# BIN: folder that holds `cammsr` and `python`; DEMO: folder to work in.
set -eu
here=$(dirname "$0")
bin=${BIN:+$BIN/}
demo=${DEMO:-demo}

say() { printf '\n$ %s\n' "$*"; }
run() { say cammsr "$@"; "${bin}cammsr" "$@"; }

say python examples/quickstart/make_shop.py "$demo/shop"
"${bin}python" "$here/make_shop.py" "$demo/shop" --items 240

# Small pictures and few frames: enough for this shop, and quick on two cores.
run prepare "$demo/shop" --out "$demo/shop.h5" \
    --encoder text --encoder image=,size=128 --encoder video=,size=96,frames=6
run train "$demo/shop.h5" --out "$demo/run" --set training.epochs=20
run evaluate "$demo/run"
run recommend "$demo/run" --user user-0001 --user user-0002 --user user-0003 --k 5
cat <<'END'

In this shop, buyers choose posters by their looks, books by their words and toys by what the clip
shows. Nobody told the model: see the columns image, text and video of each category above.
END
