//! Interprets answers over HTTP: classifies failures, says what to do about them, refuses answers that stay useless on
//! every try, and carries object keys that `object_store` cannot represent through a listing. Owns the texts of these
//! errors: of an answer's body they hold the error code alone, since the rest may contain keys.

use crate::read::source::ReadErrorKind;
use crate::url::without_secrets;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse};
use object_store::path::Path;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// If a server ignores `Range` and sends the whole file, the part is cut out of files of at most this size.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Maximum number of objects in a listing: a longer one has no end, or does not fit into memory.
pub(in crate::read) const LISTED_MAX: usize = 100_000_000;

/// Facts about the answers to one request that `object_store` does not pass on.
#[derive(Debug, Default)]
pub(in crate::read) struct Seen {
    method: String,
    status: u16,
    code: String,
    pub(in crate::read) retry_after: Option<Duration>,
    /// Why the answer cannot be used.
    refused: Option<&'static str>,
    keeper: Option<Keeper>,
    /// The pages of a listing that were asked for.
    pages: BTreeSet<String>,
}

/// The kind of service that was asked for credentials.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Keeper {
    /// The metadata service of a cloud machine: it answers at once, or there is none.
    Machine,
    Server,
}

/// The properties of a request that its answer must fit.
pub(in crate::read) struct Asked {
    is_head: bool,
    range: Option<Range<u64>>,
}

/// An answer, or a row of them, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::read) struct Refused(pub(in crate::read) String);

const NO_LENGTH: &str = "the server does not say how long the object is (no Content-Length in its answer), so that what \
                         is cut off could not be told; let it send files as they are, without compressing them on the \
                         way, or download them";
const NO_TOTAL: &str = "the server does not say how long the object is (no total in Content-Range), so that what is cut \
                        off could not be told; use a server that does, or download the files";
const NO_RANGES: &str = "the server sends whole files only (it answered 200 to a request with Range), and this one is too \
                         large to be read for a part of it; use a server that knows ranges, or download the files";
const SAME_PAGE: &str = "the server gives the same page of the listing again and again (its continuation token repeats), \
                         so that it has no end; name the files in a list, or archives";

const CREDENTIALS: &str = "check the credentials and what they are allowed to: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
                           AWS_SESSION_TOKEN or those of the provider; storage.anonymous reads what is public";

/// Error text for an object that has changed since it was listed.
pub(in crate::read) const CHANGED: &str = "the object is not the one that was listed; list the bucket anew (feedline index \
                                  --refresh URL) and begin a new run";

impl Seen {
    /// Resets the record for `request`, which is about to be sent; only the pages of a listing are kept.
    ///
    /// # Errors
    /// A page of a listing that was asked for before.
    pub(in crate::read) fn begin(&mut self, request: &HttpRequest) -> Result<Asked, HttpError> {
        let pages = std::mem::take(&mut self.pages);
        let keeper = request.uri().host().and_then(keeper);
        *self = Seen { method: request.method().as_str().to_owned(), keeper, pages, ..Seen::default() };
        let query = request.uri().query().unwrap_or_default();
        let is_page = query.split('&').any(|part| {
            part.split_once('=').is_some_and(|(name, _)| ["continuation-token", "marker", "pageToken"].contains(&name))
        });
        if is_page && !self.pages.insert(query.to_owned()) {
            self.refused = Some(SAME_PAGE);
            return Err(HttpError::new(HttpErrorKind::Unknown, Refused(SAME_PAGE.into())));
        }
        let range = request.headers().get("range").and_then(|range| {
            let (start, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
            Some(start.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
        });
        Ok(Asked { is_head: request.method().as_str() == "HEAD", range })
    }

    /// Notes an answer that is a failure.
    pub(in crate::read) fn failed(&mut self, status: u16, retry_after: Option<&str>, body: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.status = status;
        self.code = code(body);
        self.retry_after = retry_after.and_then(|value| seconds_of(value, now)).map(Duration::from_secs);
    }

    /// The kind of the failure, and the text of its error.
    pub(in crate::read) fn meaning(&self, error: &object_store::Error) -> (ReadErrorKind, String) {
        use object_store::Error as E;
        let answer = match (self.status, self.code.as_str()) {
            (status, "") => format!("the server answered {status}"),
            (status, code) => format!("the server answered {status} {code}"),
        };
        let chain = || std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |e| e.source());
        let deepest = || without_secrets(&chain().last().map(ToString::to_string).unwrap_or_default());
        if let Some(refused) = self.refused {
            return (ReadErrorKind::Other, refused.into());
        }
        match (self.keeper, self.status) {
            (None, _) | (_, 429 | 500..=599) | (Some(Keeper::Server), 0) => {}
            (_, 0) => return (ReadErrorKind::Denied, format!("no credentials were found; {CREDENTIALS}")),
            _ => return (ReadErrorKind::Denied, format!("asked for credentials, {answer}; {CREDENTIALS}")),
        }
        match (self.status, self.method.as_str()) {
            (404, _) if self.code == "NoSuchBucket" => (
                ReadErrorKind::Other,
                format!("{answer}: there is no such bucket; check its name, and storage.endpoint"),
            ),
            (404, _) => (ReadErrorKind::Missing, format!("{answer}: there is no such object")),
            (304 | 412, _) => (ReadErrorKind::Changed, CHANGED.into()),
            (416, _) => {
                (ReadErrorKind::Changed, format!("it has fewer bytes than were asked for ({answer}): {CHANGED}"))
            }
            (401 | 403, _) => (ReadErrorKind::Denied, format!("{answer}; {CREDENTIALS}")),
            // AWS answers 400, not 401, if a session token has expired.
            (400, _) if self.code.contains("Token") || self.code.contains("Credential") => {
                (ReadErrorKind::Denied, format!("{answer}; {CREDENTIALS}"))
            }
            (405 | 501, "PROPFIND") => (
                ReadErrorKind::Other,
                format!("{answer}; a web server lists nothing: name the files in a list, or archives"),
            ),
            (405 | 501, "HEAD") => (
                ReadErrorKind::Other,
                format!(
                    "{answer} to a request with HEAD, which is how the size of a file is asked for; use a server that \
                     knows it, or download the files"
                ),
            ),
            (405 | 501, method) => (
                ReadErrorKind::Other,
                format!("{answer} to a request with {method}; is it a server of files or of a bucket?"),
            ),
            (300..=399, _) => (
                ReadErrorKind::Other,
                format!("{answer}; is storage.region that of the bucket, and storage.endpoint right?"),
            ),
            (429 | 503, _) => (ReadErrorKind::Busy, answer),
            (505 | 506 | 508 | 510 | 511, _) => (ReadErrorKind::Other, answer),
            (408 | 500..=599, _) => (ReadErrorKind::Broken, answer),
            (400..=499, _) => (ReadErrorKind::Other, answer),
            // No answer, one that was cut off, or one that cannot be parsed.
            _ => match error {
                E::NotFound { .. } => (ReadErrorKind::Missing, "there is no such object".into()),
                E::Precondition { .. } | E::NotModified { .. } => (ReadErrorKind::Changed, CHANGED.into()),
                E::PermissionDenied { .. } | E::Unauthenticated { .. } => (ReadErrorKind::Denied, CREDENTIALS.into()),
                E::InvalidPath { source } => (
                    ReadErrorKind::Other,
                    format!("there is a name in it that no request can name: {source}; give it another"),
                ),
                _ if chain().any(|e| e.is::<tokio::time::error::Elapsed>()) => {
                    (ReadErrorKind::TimedOut, "no further page of the listing came (storage.timeout_s)".into())
                }
                _ => match chain().find_map(|e| e.downcast_ref::<Refused>()) {
                    Some(Refused(problem)) => (ReadErrorKind::Other, problem.clone()),
                    // An answer that was cut off but parsed as if complete.
                    None if ["end of input", "Eof", "EOF"].iter().any(|words| deepest().contains(words)) => {
                        (ReadErrorKind::Broken, format!("the answer breaks off: {}", deepest()))
                    }
                    None if !chain().any(|e| e.is::<HttpError>()) => (
                        ReadErrorKind::Other,
                        format!("the answer is not understood: {}; check storage.endpoint and the URL", deepest()),
                    ),
                    None if deepest().contains("certificate") => (
                        ReadErrorKind::Other,
                        format!("the server is not trusted: {}; check the URL and the certificates here", deepest()),
                    ),
                    None => (ReadErrorKind::Broken, format!("the connection failed: {}", deepest())),
                },
            },
        }
    }

    /// Checks that a successful answer fits the request. If the whole object came instead of the range, cuts the range
    /// out of objects of up to 4 MiB; any other mismatch is noted, and `object_store` refuses the answer.
    ///
    /// # Errors
    /// A body that was cut off.
    pub(in crate::read) async fn fit(asked: Asked, response: HttpResponse) -> Result<(HttpResponse, Seen), HttpError> {
        let mut seen = Seen::default();
        let (mut parts, mut body) = response.into_parts();
        let number = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let len_bytes: Option<u64> = number("content-length");
        let Asked { is_head, range } = asked;
        let Some(range) = range.filter(|_| !is_head) else {
            if is_head && len_bytes.is_none() {
                seen.refused = Some(NO_LENGTH);
            }
            return Ok((HttpResponse::from_parts(parts, body), seen));
        };
        match (parts.status.as_u16(), len_bytes) {
            (206, _) => {
                let part = parts.headers.get("content-range").and_then(|value| part_of(value.to_str().ok()?));
                match part {
                    None => seen.refused = Some(NO_TOTAL),
                    // A chunked body has no Content-Length: the length of the range stands in.
                    Some(part) if len_bytes.is_none() => {
                        parts.headers.insert("content-length", (part.end - part.start).into());
                    }
                    Some(_) => {}
                }
            }
            (200, None) => seen.refused = Some(NO_LENGTH),
            (200, Some(len_bytes)) if range.start >= len_bytes => {
                seen.status = 416;
                parts.status = 416u16.try_into().unwrap_or(parts.status);
                body = Vec::<u8>::new().into();
            }
            (200, Some(len_bytes)) => {
                let part = range.start..range.end.min(len_bytes);
                if part != (0..len_bytes) {
                    if len_bytes > WHOLE_BYTES_MAX {
                        seen.refused = Some(NO_RANGES);
                        return Ok((HttpResponse::from_parts(parts, body), seen));
                    }
                    let whole = body.bytes().await?;
                    if whole.len() as u64 != len_bytes {
                        return Err(HttpError::new(HttpErrorKind::Interrupted, Refused("the answer broke off".into())));
                    }
                    body = whole.slice(part.start as usize..part.end as usize).into();
                }
                let said = format!("bytes {}-{}/{len_bytes}", part.start, part.end - 1);
                if let Ok(said) = said.parse() {
                    parts.headers.insert("content-range", said);
                }
                parts.headers.insert("content-length", (part.end - part.start).into());
                parts.status = 206u16.try_into().unwrap_or(parts.status);
            }
            _ => {}
        }
        Ok((HttpResponse::from_parts(parts, body), seen))
    }

    /// Takes over the status and the refusal that [`Seen::fit`] found.
    pub(in crate::read) fn note(&mut self, found: Seen) {
        (self.status, self.refused) = (found.status, found.refused);
    }
}

/// The kind of credential service at `host`: a cloud's metadata service, a sign-in server, or none.
fn keeper(host: &str) -> Option<Keeper> {
    let of_machine = host.starts_with("169.254.") || ["metadata.google.internal", "metadata"].contains(&host);
    let of_servers = ["sts.", "oauth2.googleapis.com", "iamcredentials.googleapis.com", "login.microsoftonline.com"];
    match () {
        () if of_machine => Some(Keeper::Machine),
        () if of_servers.iter().any(|begin| host.starts_with(begin)) => Some(Keeper::Server),
        () => None,
    }
}

/// The range that `bytes 0-9/100` names; `None` without the total.
fn part_of(content_range: &str) -> Option<Range<u64>> {
    let (part, total) = content_range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = part.split_once('-')?;
    let (start, end, total) = (start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()?);
    (start < end && end <= total).then_some(start..end)
}

/// The seconds that `Retry-After` names, as a number of any size or as a date, at the time `now` since 1970.
fn seconds_of(retry_after: &str, now: u64) -> Option<u64> {
    let text = retry_after.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().unwrap_or(u64::MAX));
    }
    // `Wed, 21 Oct 2015 07:28:00 GMT`, the one form that may be sent.
    let words: Vec<&str> = text.split_once(", ")?.1.strip_suffix(" GMT")?.split([' ', ':']).collect();
    let [day, month, year, hour, minute, second] = words[..] else { return None };
    let number = |word: &str| word.parse::<u64>().ok();
    let (day, year, hour) = (number(day)?, number(year)?, number(hour)?);
    let (minute, second) = (number(minute)?, number(second)?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64;
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970, with years that begin in March, so that the leap day is the last.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.saturating_sub(719_468);
    Some((86_400 * days + 3600 * hour + 60 * minute + second).saturating_sub(now))
}

/// The name of the failure in an answer, `<Code>SlowDown</Code>`; nothing else of it, since the rest may hold keys.
fn code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    let inner = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    inner.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(60).collect()
}

/// True if two versions are of the same content. An ETag equals its weak form (`W/` in front): servers mark it as weak
/// when they might send the content in another encoding.
pub(in crate::read) fn is_same_version(one: &str, other: &str) -> bool {
    one.strip_prefix("W/").unwrap_or(one) == other.strip_prefix("W/").unwrap_or(other)
}

/// True if a version is a strong ETag, which `If-Match` accepts (RFC 9110, 13.1.1). Other versions are compared with
/// the version in the answer.
pub(in crate::read) fn is_strong(version: &str) -> bool {
    !version.is_empty() && !version.starts_with("W/") && !version.starts_with(CHANGED_AT)
}

/// The XML element that holds object keys in the answer to a listing request (S3 and Google, Azure); `None` for others.
pub(in crate::read) fn listed_in(query: &str) -> Option<&'static str> {
    query.split('&').find_map(|part| match part {
        "list-type=2" => Some("Key"),
        "comp=list" => Some("Name"),
        _ => None,
    })
}

/// Prefix of the stand-in for a key that `object_store` would refuse, together with the whole listing, or would
/// silently change: it drops a trailing `/`, and blanks.
const HIDDEN: &str = "feedline-hidden-key-";

/// The listing `body` with a stand-in for each key in `element` that `object_store` would not return unchanged.
pub(in crate::read) fn with_hidden(body: &[u8], element: &str) -> Vec<u8> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let Ok(mut rest) = str::from_utf8(body) else { return body.to_vec() };
    let mut text = String::with_capacity(rest.len());
    while let Some((before, (inner, after))) =
        rest.split_once(&open).and_then(|(before, rest)| Some((before, rest.split_once(&close)?)))
    {
        text += before;
        text += &open;
        match unescaped(inner) {
            Some(key) if is_changed(&key) => text += &hidden(&key),
            _ => text += inner,
        }
        text += &close;
        rest = after;
    }
    (text + rest).into_bytes()
}

fn is_changed(key: &str) -> bool {
    let same = Path::parse(key).is_ok_and(|path| path.as_ref() == key);
    !same || key.trim() != key || key.starts_with(HIDDEN)
}

pub(in crate::read) fn hidden(key: &str) -> String {
    key.bytes().fold(HIDDEN.to_owned(), |hidden, byte| format!("{hidden}{byte:02x}"))
}

/// The key that [`hidden`] encoded; any other key unchanged.
pub(in crate::read) fn shown(key: &str) -> String {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes = key.strip_prefix(HIDDEN).map(|hex| hex.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>());
    bytes.flatten().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| key.to_owned())
}

/// The text of an XML element, with its entities decoded; `None` if it cannot be parsed.
pub(in crate::read) fn unescaped(inner: &str) -> Option<String> {
    let mut parts = inner.split('&');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';')?;
        text.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#')?;
                let hex = number.strip_prefix(['x', 'X']);
                let code = hex.map_or_else(|| number.parse(), |hex| u32::from_str_radix(hex, 16));
                char::from_u32(code.ok()?)?
            }
        });
        text += rest;
    }
    (!text.contains("<![CDATA[")).then_some(text)
}

/// Prefix of a version that is a time of change.
pub(in crate::read) const CHANGED_AT: &str = "changed ";

/// Collects the objects of a listing, and finds one that repeats without end.
pub(in crate::read) struct Listed<T> {
    objects: Vec<T>,
    /// Number of objects at which the next check for duplicates is due: some servers repeat a page for ever.
    look_at: usize,
    most: usize,
}

impl<T> Listed<T> {
    pub(in crate::read) fn new(most: usize) -> Listed<T> {
        Listed { objects: Vec::new(), look_at: 1 << 12, most }
    }

    /// Adds an object; `name` gives its unique name.
    ///
    /// # Errors
    /// Too many objects, or the same object twice.
    pub(in crate::read) fn push(&mut self, object: T, name: impl Fn(&T) -> &str) -> Result<(), Refused> {
        if self.objects.len() == self.most {
            let most = self.most;
            return Err(Refused(format!(
                "there are more than {most} objects below it, or the listing has no end; keep fewer in a folder, or in archives"
            )));
        }
        self.objects.push(object);
        if self.objects.len() < self.look_at {
            return Ok(());
        }
        self.look_at *= 2;
        self.check(name)
    }

    fn check(&self, name: impl Fn(&T) -> &str) -> Result<(), Refused> {
        let mut names: Vec<&str> = self.objects.iter().map(name).collect();
        names.sort_unstable();
        match names.array_windows().find(|[one, next]| one == next) {
            None => Ok(()),
            Some([name, _]) => Err(Refused(format!(
                "the server lists {name} twice, so that the listing has no end or cannot be believed; name the files in a \
                 list, or archives"
            ))),
        }
    }

    /// All objects.
    ///
    /// # Errors
    /// The same object twice.
    pub(in crate::read) fn done(self, name: impl Fn(&T) -> &str) -> Result<Vec<T>, Refused> {
        self.check(name)?;
        Ok(self.objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_asks_for_is_understood_in_every_form() {
        let now = 1_445_412_400; // Wed, 21 Oct 2015 07:26:40 GMT
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", Some(u64::MAX)),
            ("99999999999999999999999999999999", Some(u64::MAX)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(80)),
            ("Tue, 20 Oct 2015 07:28:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800 - now)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799 - now)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("", None),
            ("-5", None),
            ("soon", None),
            ("Wed, 99 Oct 2015 07:28:00 GMT", None),
            ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ] {
            assert_eq!(seconds_of(value, now), seconds, "{value}");
        }
    }

    #[test]
    fn a_listing_without_end_ends() {
        let name = String::as_str;
        let mut listed = Listed::new(10);
        (0..10).for_each(|at| listed.push(at.to_string(), name).unwrap());
        assert!(listed.push("10".into(), name).unwrap_err().to_string().contains("more than 10 objects"));
        assert_eq!(listed.done(name).unwrap().len(), 10);
        // One that begins again after a page; new tokens all the time.
        let mut listed = Listed::new(LISTED_MAX);
        let repeated = (0..1_000_000).find_map(|at: u32| listed.push(format!("k{}", at % 1000), name).err());
        assert!(repeated.unwrap().to_string().contains("twice"));
        assert!(listed.objects.len() < 10_000);
        let mut listed = Listed::new(LISTED_MAX);
        (0..3).for_each(|at| listed.push(format!("k{}", at % 2), name).unwrap());
        assert!(listed.done(name).is_err());
    }

    #[test]
    fn weak_versions_are_compared_and_never_asked_for() {
        assert!(is_strong("\"a\"") && !is_strong("W/\"a\"") && !is_strong("") && !is_strong("changed 5"));
        assert!(is_same_version("W/\"a\"", "\"a\"") && is_same_version("\"a\"", "\"a\""));
        assert!(!is_same_version("W/\"a\"", "W/\"b\"") && !is_same_version("\"a\"", "\"b\""));
    }

    #[test]
    fn parts_are_told_by_their_totals() {
        assert_eq!(part_of("bytes 0-9/100"), Some(0..10));
        for wrong in [
            "bytes 0-9/*",
            "bytes */100",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "0-9/100",
            "",
            "bytes 0-18446744073709551615/5",
        ] {
            assert_eq!(part_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_of_an_answer_but_its_name_is_said() {
        let body = b"<?xml?><Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId></Error>";
        assert_eq!(code(body), "InvalidAccessKeyId");
        assert_eq!(code(b"<html>"), "");
    }

    #[test]
    fn the_status_decides_and_not_what_it_became() {
        let failure = |method: &str, status: u16, host: Option<Keeper>| {
            let seen = Seen { method: method.into(), status, keeper: host, ..Seen::default() };
            // `object_store` turns a 405, among others, into this error.
            let error = object_store::Error::NotFound { path: "x".into(), source: "x".into() };
            seen.meaning(&error)
        };
        for (method, status, kind, words) in [
            ("GET", 404, ReadErrorKind::Missing, "no such object"),
            ("HEAD", 405, ReadErrorKind::Other, "HEAD"),
            ("HEAD", 501, ReadErrorKind::Other, "HEAD"),
            ("PROPFIND", 501, ReadErrorKind::Other, "name the files in a list"),
            ("GET", 405, ReadErrorKind::Other, "GET"),
            ("GET", 505, ReadErrorKind::Other, "505"),
            ("GET", 500, ReadErrorKind::Broken, "500"),
            ("GET", 503, ReadErrorKind::Busy, "503"),
            ("GET", 403, ReadErrorKind::Denied, "credentials"),
            ("GET", 301, ReadErrorKind::Other, "storage.region"),
            ("GET", 416, ReadErrorKind::Changed, "fewer bytes"),
        ] {
            let (found, problem) = failure(method, status, None);
            assert!(found == kind && problem.contains(words), "{method} {status}: {found:?} {problem}");
        }
        // Whoever has no credentials to give has not said that an object is missing.
        for (status, kind) in [
            (404, ReadErrorKind::Denied),
            (0, ReadErrorKind::Denied),
            (400, ReadErrorKind::Denied),
            (503, ReadErrorKind::Busy),
        ] {
            assert_eq!(failure("GET", status, keeper("169.254.169.254")).0, kind, "{status}");
        }
        assert_eq!(keeper("bucket.s3.amazonaws.com"), None);
        assert_eq!(keeper("sts.eu-west-1.amazonaws.com"), Some(Keeper::Server));
    }
}
