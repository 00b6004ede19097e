//! URLs in paths and texts: recognises them, and removes their secrets for display.

use std::path::Path;

/// True if a path is the URL of a source and not a file of this machine.
pub fn is_url(path: &Path) -> bool {
    let scheme = path.to_str().and_then(|text| text.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// A text without the secrets of its URLs: the user part before an `@` of the host, and the query after a `?`. For
/// everything that is printed or written.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let is_end = |letter: char| letter.is_whitespace() || "\"'`<>|\\".contains(letter);
        let (url, behind) = after.split_at(after.find(is_end).unwrap_or(after.len()));
        shown += before;
        shown += "://";
        let (host, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        shown += host.rsplit_once('@').map_or(host, |(_, host)| host);
        match path.split_once('?') {
            None => shown += path,
            Some((path, query)) => {
                shown += path;
                // Punctuation at the end belongs to the sentence, not to the query.
                shown += &query[query.trim_end_matches([':', ',', ';', '.', ')']).len()..];
            }
        }
        rest = behind;
    }
    shown + rest
}

/// A whole URL, which may contain blanks, without its secrets; a path is returned unchanged.
pub(crate) fn without_query(path: &str) -> String {
    match path.split_once("://") {
        Some((scheme, rest)) if is_url(Path::new(path)) && scheme != "file" => {
            let rest = rest.split('?').next().unwrap_or_default();
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit_once('@').map_or(host, |(_, host)| host))
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for (path, expect) in
            [("s3://b/x", true), ("/data/x", false), ("C://x", false), ("://x", false), ("a/b", false)]
        {
            assert_eq!(is_url(Path::new(path)), expect, "{path}");
        }
    }

    #[test]
    fn nothing_secret_is_left_of_a_text_or_a_url() {
        for (text, shown) in [
            ("at https://me:pw@host/x?sig=abc failed", "at https://host/x failed"),
            ("https://host/x?sig=a/b: there is none", "https://host/x: there is none"),
            ("`https://host?sig=abc` is (s3://k:s@b/x?versionId=1), no?", "`https://host` is (s3://b/x), no?"),
            ("https://host/a@b.jpg, s3://b/x y?z", "https://host/a@b.jpg, s3://b/x y?z"),
            ("https://u:p@h/x\nhttps://u:p@h/y?q\"", "https://h/x\nhttps://h/y\""),
            ("a b?c @ d", "a b?c @ d"),
            ("://", "://"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        assert_eq!(without_query("https://me:pw@host/a b?sig=c d"), "https://host/a b");
        assert_eq!(without_query("/data/what?/x@y"), "/data/what?/x@y");
    }
}
