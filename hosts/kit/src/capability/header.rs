//! The `Authorization` header.

use super::verify::Denied;

const SCHEMES: [&str; 3] = ["Bearer", "Macaroon", "Macro"];

/// The token in a request's `Authorization` headers, of which there has to be one: `Bearer`, `Macaroon` or `Macro` in
/// any case, and the token.
///
/// # Errors
///
/// [`Denied::Missing`] without a header, [`Denied::Header`] if there are several or it has another form.
pub fn bearer<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a str, Denied> {
    let mut headers = headers.into_iter();
    let header = headers.next().ok_or(Denied::Missing)?;
    if headers.next().is_some() {
        return Err(Denied::Header);
    }
    let text = std::str::from_utf8(header).map_err(|_| Denied::Header)?;
    let (scheme, token) = text.split_once(' ').ok_or(Denied::Header)?;
    let token = token.trim_matches(' ');
    let known = SCHEMES
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme));
    let word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    match known && word {
        true => Ok(token),
        false => Err(Denied::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_header_with_a_known_scheme_holds_a_token() {
        for (headers, expected) in [
            (&[][..], Err(Denied::Missing)),
            (&["Bearer Ag"], Ok("Ag")),
            (&["Macaroon Ag"], Ok("Ag")),
            (&["Macro Ag"], Ok("Ag")),
            (&["bEARER Ag"], Ok("Ag")),
            (&["MACRO   Ag== "], Ok("Ag==")),
            (&["Bearer Ag", "Bearer Ag"], Err(Denied::Header)),
            (&["Bearer Ag", "Basic eDp5"], Err(Denied::Header)),
            (&["Basic eDp5"], Err(Denied::Header)),
            (&[""], Err(Denied::Header)),
            (&["Ag"], Err(Denied::Header)),
            (&["Bearer"], Err(Denied::Header)),
            (&["Bearer "], Err(Denied::Header)),
            (&["Bearer\tAg"], Err(Denied::Header)),
            (&[" Bearer Ag"], Err(Denied::Header)),
            (&["Bearer A g"], Err(Denied::Header)),
            (&["Bearer Ag,Bearer Ag"], Err(Denied::Header)),
            (&["Bearer é"], Err(Denied::Header)),
        ] {
            let found = bearer(headers.iter().map(|text| text.as_bytes()));
            assert_eq!(found, expected, "{headers:?}");
        }
        assert_eq!(bearer([&b"Bearer \xff"[..]]), Err(Denied::Header));
    }
}
