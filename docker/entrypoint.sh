#!/bin/sh
# What the image runs: app (when nothing is said), api, predict; anything else is a command of its own.
# Options follow: docker run -p 8000:8000 IMAGE api --insecure
set -eu

[ "$#" -gt 0 ] || set -- app
what=$1
case "$what" in
app)
    shift
    exec streamlit run st_app_predict.py --server.address 0.0.0.0 --server.port "$PORT" "$@"
    ;;
api)
    shift
    exec metal-defects serve --host 0.0.0.0 --port "$PORT" "$@"
    ;;
predict)
    exec metal-defects "$@"
    ;;
*)
    exec "$@"
    ;;
esac
