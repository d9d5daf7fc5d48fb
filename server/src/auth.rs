//! Bearer tokens.

use crate::failure::{Failure, Result};
use stage1_core::artifact::Digest;

/// What a request must know; only its digest is kept.
pub(crate) struct Token(Digest);

impl Token {
    pub(crate) fn new(token: &str) -> Self {
        Self(Digest::of_bytes(token.as_bytes()))
    }

    /// Takes as long for a token that is nearly right as for any other: digests are compared, and all of their bytes.
    pub(crate) fn check(&self, authorization: Option<&[u8]>) -> Result<()> {
        let Some(given) = authorization else {
            return Err(Failure::Unauthenticated("a bearer token is needed"));
        };
        let (scheme, token) = given.split_at_checked(7).unwrap_or((given, b""));
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(Failure::Unauthenticated(
                "`authorization` isn't a bearer token",
            ));
        }
        let given = Digest::of_bytes(token.trim_ascii());
        let pairs = given.as_bytes().iter().zip(self.0.as_bytes());
        let difference = pairs.fold(0, |sum, (a, b)| sum | (a ^ b));
        if std::hint::black_box(difference) == 0 {
            Ok(())
        } else {
            Err(Failure::Unauthenticated("the bearer token is wrong"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let token = Token::new("s3cret");
        let cases: [(&str, Option<&str>, bool); 8] = [
            ("right", Some("Bearer s3cret"), true),
            ("scheme in lower case", Some("bearer s3cret"), true),
            ("a space more", Some("Bearer  s3cret"), true),
            ("none", None, false),
            ("wrong", Some("Bearer s3creT"), false),
            ("a part", Some("Bearer s3cre"), false),
            ("another scheme", Some("Basic s3cret"), false),
            ("short", Some("Bear"), false),
        ];
        for (name, given, opens) in cases {
            let got = token.check(given.map(str::as_bytes));
            assert_eq!(got.is_ok(), opens, "{name}");
        }
    }
}
