//! What a client would rather read: a page or JSON (RFC 9110, section 12.5.1).
//!
//! JSON is the answer to everybody who does not clearly want a page: no `Accept`, `*/*` as curl sends it, or the same
//! weight for both. Browsers name `text/html` with a weight of 1 and all else below it.

use http::header::{ACCEPT, HeaderMap};

/// Whether a page is wanted rather than JSON. Costs one look-up when there is no `Accept` or a plain one.
pub fn prefers_html(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(ACCEPT);
    let (mut html, mut json) = (Weight::default(), Weight::default());
    for field in fields {
        if field == "*/*" || field == "application/json" {
            html.weigh(field.as_bytes(), 1000, "text", "html");
            json.weigh(field.as_bytes(), 1000, "application", "json");
            continue;
        }
        for range in split(field.as_bytes(), b',') {
            let Some((media, quality)) = range_of(range) else { continue };
            html.weigh(media, quality, "text", "html");
            json.weigh(media, quality, "application", "json");
        }
    }
    html.quality > json.quality
}

/// How much a media type is wanted: the weight of the most specific range that covers it.
#[derive(Default)]
struct Weight {
    /// 0: no range covers it; 1: `*/*`; 2: `type/*`; 3: the type itself.
    specificity: u8,
    /// Thousandths.
    quality: u16,
}

impl Weight {
    fn weigh(&mut self, range: &[u8], quality: u16, kind: &str, subtype: &str) {
        let specificity = covers(range, kind, subtype);
        if specificity > self.specificity {
            *self = Weight { specificity, quality };
        } else if specificity == self.specificity && specificity > 0 {
            self.quality = self.quality.max(quality);
        }
    }
}

/// How specifically a range covers a media type, see `Weight::specificity`.
fn covers(range: &[u8], kind: &str, subtype: &str) -> u8 {
    let Some(slash) = range.iter().position(|byte| *byte == b'/') else { return 0 };
    let (range_kind, range_subtype) = (&range[..slash], &range[slash + 1..]);
    match (range_kind, range_subtype) {
        (b"*", b"*") => 1,
        (range_kind, b"*") if range_kind.eq_ignore_ascii_case(kind.as_bytes()) => 2,
        (range_kind, range_subtype)
            if range_kind.eq_ignore_ascii_case(kind.as_bytes())
                && range_subtype.eq_ignore_ascii_case(subtype.as_bytes()) =>
        {
            3
        }
        _ => 0,
    }
}

/// A media range and its weight in thousandths; `None` if the weight is none. Parameters other than the weight do not
/// narrow a range: there is one page and one JSON text to choose from.
fn range_of(range: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = split(range, b';').map(<[u8]>::trim_ascii);
    let media = parts.next()?;
    for part in parts {
        if let [b'q' | b'Q', b'=', weight @ ..] = part {
            return Some((media, quality(weight)?));
        }
    }
    Some((media, 1000))
}

/// `0`, `1`, and up to three decimals.
fn quality(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole @ (b'0' | b'1')] | [whole @ (b'0' | b'1'), b'.'] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut thousandths = u16::from(whole - b'0');
    for place in 0..3 {
        let digit = decimals.get(place).unwrap_or(&b'0');
        thousandths = thousandths * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    (thousandths <= 1000).then_some(thousandths)
}

/// The parts between separators that do not stand in a quoted string.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return !quoted && *byte == separator,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn prefers(fields: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT, field.parse().unwrap());
        }
        prefers_html(&headers)
    }

    #[test]
    fn browsers_get_pages_and_programs_get_json() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7";
        let firefox =
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/png,image/svg+xml,*/*;q=0.8";
        let safari = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let lynx = "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01";
        for page in [
            chromium,
            firefox,
            safari,
            lynx,
            "text/html",
            "TEXT/HTML",
            "text/*",
            "text/html;charset=utf-8",
            "text/html;q=0.001",
            "application/json;q=0.9, text/html",
            "application/json;q=0, */*",
            "text/html , application/json;q=0.999",
            "*/*;q=0.1, text/html;q=0.2",
            "text/x;a=\"b,application/json;q=1\", text/html;q=0.5",
            "text/html;level=1;q=0.4",
            "application/json;q=0.3, text/html; q=0.3; q=1, text/html;q=0.4",
        ] {
            assert!(prefers(&[page]), "{page}");
        }
        for json in [
            "",
            "*/*",
            "application/json",
            "application/*",
            "text/html, application/json",
            "*/*, text/css",
            "text/html;q=0.5, application/json",
            "text/html;q=0.5, */*",
            "application/json, */*;q=0.1",
            "text/css,*/*;q=0.1",
            "text/html;q=0",
            "text/html;q=2",
            "text/html;q=1.001",
            "text/html;q=",
            "text/html;q=0.0001",
            "text/html;q=-1",
            "text/html;q=0.5x",
            "text",
            "text/html/x",
            ";;,,;q",
            "\"",
            "application/problem+json",
        ] {
            assert!(!prefers(&[json]), "{json}");
        }
        assert!(!prefers(&[]));
    }

    #[test]
    fn several_fields_are_one_list() {
        assert!(prefers(&["application/json;q=0.1", "text/html"]));
        assert!(!prefers(&["text/html;q=0.1", "application/json"]));
        assert!(!prefers(&["*/*", "text/html"]), "as wanted as anything else");
        assert!(prefers(&["*/*;q=0.9", "text/html"]));
    }

    proptest! {
        #[test]
        fn nothing_that_a_header_can_hold_upsets_it(bytes in "[ -~]{0,64}") {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(&bytes).unwrap());
            prefers_html(&headers);
        }
    }
}
