//! Style sheets, scripts and the icon, as they were when this binary was built.
//!
//! They are found below `/assets/<hash>/`, where the hash is that of all of them: a page names exactly the files it was
//! made with, modules find each other by relative names, and a browser may keep them for ever. While releases run side
//! by side a browser may ask one front end for the files of another: it gets this one's, to be kept for no longer than
//! the page.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, IF_NONE_MATCH};
use kit::http::{Request, Response};

/// A file in the binary.
struct File {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:literal, $media_type:expr) => {
        File { name: $name, media_type: $media_type, bytes: include_bytes!(concat!("../../assets/", $name)) }
    };
}

const FILES: [File; 7] = [
    file!("quire.css", "text/css; charset=utf-8"),
    file!("quire.svg", "image/svg+xml"),
    file!("buy.js", SCRIPT),
    file!("cluster.css", "text/css; charset=utf-8"),
    file!("cluster.js", SCRIPT),
    file!("model.js", SCRIPT),
    file!("plot.js", SCRIPT),
];

/// A year, the most that caches take.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");
const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// All files, under the hash of all.
pub(super) struct Assets {
    hash: String,
    base: String,
}

impl Assets {
    /// Hashes the files.
    pub(super) fn new() -> Assets {
        let mut hasher = blake3::Hasher::new();
        for file in &FILES {
            // Lengths keep apart what would run together.
            hasher.update(&(file.name.len() as u64).to_le_bytes()).update(file.name.as_bytes());
            hasher.update(&(file.bytes.len() as u64).to_le_bytes()).update(file.bytes);
        }
        let hash = hasher.finalize().to_hex()[..16].to_owned();
        let base = format!("/assets/{hash}");
        Assets { hash, base }
    }

    /// The path that a page finds its files below, without a slash at the end.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The file `name` for a page of the release whose hash is `hash`; `None` if there is none.
    pub(super) fn answer(&self, hash: &str, name: &str, request: &Request) -> Option<Response> {
        let file = FILES.iter().find(|file| file.name == name)?;
        let mut response = Response::shared(StatusCode::OK, file.media_type, Bytes::from_static(file.bytes));
        let tag = format!("\"{}\"", self.hash);
        response.headers.insert(CACHE_CONTROL, if hash == self.hash { FOR_EVER } else { ASK_AGAIN });
        response.headers.extend([NOSNIFF]);
        if request.headers.get_all(IF_NONE_MATCH).iter().any(|held| held.as_bytes() == tag.as_bytes()) {
            response.status = StatusCode::NOT_MODIFIED;
            response.headers.remove(CONTENT_TYPE);
            response.body = Bytes::new();
        }
        Some(response.with_header("etag", &tag))
    }
}
