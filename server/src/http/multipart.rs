//! `multipart/form-data` (RFC 7578): the files of a form.

use crate::failure::{Failure, Result};
use bytes::Bytes;

/// A part of a form.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub(super) name: String,
    /// Of a file: what it is called.
    pub(super) file_name: Option<String>,
    pub(super) bytes: Bytes,
}

/// The boundary of a content type, if it is that of a form.
pub(super) fn boundary(content_type: &str) -> Option<Result<String>> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary =
        parameter(parameters, "boundary").filter(|boundary| (1..=70).contains(&boundary.len()));
    Some(
        boundary
            .ok_or_else(|| Failure::Invalid("the form's content type has no boundary".to_owned())),
    )
}

/// The parts of a form. Their bytes share its memory.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Result<Vec<Part>> {
    let broken = |what: &str| Failure::Invalid(format!("the form is damaged: {what}"));
    let delimiter = format!("\r\n--{boundary}");
    let first = &delimiter.as_bytes()[2..];
    let mut at = match body.starts_with(first) {
        true => first.len(),
        false => {
            find(body, delimiter.as_bytes(), 0)
                .ok_or_else(|| broken("its boundary doesn't occur"))?
                + delimiter.len()
        }
    };
    let mut parts = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let line = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| broken("it ends after a boundary"))?;
        let head = at + line + 1;
        // A part without headers begins with the empty line itself.
        let end_of_head = find(body, b"\r\n\r\n", head - 2)
            .ok_or_else(|| broken("a part's headers don't end"))?;
        let content = end_of_head + 4;
        let end = find(body, delimiter.as_bytes(), content - 2)
            .ok_or_else(|| broken("a part doesn't end"))?;
        let headers = String::from_utf8_lossy(&body[head.min(end_of_head)..end_of_head]);
        parts.push(part(&headers, body.slice(content.min(end)..end)));
        at = end + delimiter.len();
    }
}

fn part(headers: &str, bytes: Bytes) -> Part {
    let disposition = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("content-disposition")
            .then_some(value)
    });
    let (_, parameters) = disposition
        .and_then(|value| value.split_once(';'))
        .unwrap_or_default();
    Part {
        name: parameter(parameters, "name").unwrap_or_default(),
        file_name: parameter(parameters, "filename"),
        bytes,
    }
}

/// The value of a parameter, quoted or not.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let (value, next) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        if key
            .trim_matches(|c: char| c.is_whitespace() || c == ';')
            .eq_ignore_ascii_case(name)
        {
            return Some(value);
        }
        rest = next;
    }
}

/// A quoted value, in which a backslash quotes a quotation mark, and what comes after it.
fn quoted_value(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                chars.next();
            }
            c => value.push(c),
        }
    }
    None
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at + what.len() <= bytes.len() {
        let step = bytes[at..=bytes.len() - what.len()]
            .iter()
            .position(|byte| *byte == what[0])?;
        at += step;
        if bytes[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"group\"\r\n\r\nvideo 7\r\n--b\r\n\
        Content-Type: image/png\r\ncontent-disposition: form-data; name=file; filename=\"a \\\"b\\\".png\"\r\n\r\n\
        \r\n--x\r\n--b--\r\n";

    #[test]
    fn parts_have_their_names_and_bytes() {
        let parts = parts(&Bytes::from(FORM), "b").unwrap();
        let got: Vec<_> = parts
            .iter()
            .map(|part| {
                (
                    part.name.as_str(),
                    part.file_name.as_deref(),
                    &part.bytes[..],
                )
            })
            .collect();
        let want: [(&str, Option<&str>, &[u8]); 2] = [
            ("group", None, b"video 7"),
            ("file", Some("a \"b\".png"), b"\r\n--x"),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn empty_parts_and_prologues_are_read() {
        let cases = [
            (
                "an empty file",
                "--b\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\n\r\n--b--",
                1,
            ),
            ("no headers", "--b\r\n\r\nx\r\n--b--", 1),
            ("a prologue", "hello\r\n--b\r\n\r\nx\r\n--b--", 1),
            ("nothing", "--b--\r\n", 0),
        ];
        for (name, form, want) in cases {
            assert_eq!(
                parts(&Bytes::from(form), "b").unwrap().len(),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn a_form_that_breaks_off_anywhere_is_refused() {
        let end = FORM.find("--b--").unwrap();
        for cut in 0..end {
            assert!(
                parts(&Bytes::from(&FORM[..cut]), "b").is_err(),
                "{cut}: {:?}",
                &FORM[..cut]
            );
        }
        assert!(parts(&Bytes::from("--c\r\n\r\n"), "b").is_err());
    }

    #[test]
    fn only_forms_have_a_boundary() {
        assert!(boundary("image/png").is_none());
        assert_eq!(
            boundary("Multipart/Form-Data; charset=utf-8; boundary=\"a;b\"")
                .unwrap()
                .unwrap(),
            "a;b"
        );
        assert_eq!(
            boundary("multipart/form-data; boundary=xyz")
                .unwrap()
                .unwrap(),
            "xyz"
        );
        assert!(boundary("multipart/form-data").unwrap().is_err());
    }
}
