"""What people look at, in Streamlit: `market`, `coin` and `pipeline` are the pages, `app` puts them together.

`formats` and `charts` are pure; `data` reads once for all who look. `python -m crypto_stream.dashboard` is the process.
"""
