//! The operating system's words, for people.

/// The text without the numbers of the operating system's errors: `Connection refused (os error 111)` becomes
/// `Connection refused`.
#[must_use]
pub fn plain(text: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(BEGIN) {
        out.push_str(before);
        match after.split_once(')') {
            Some((number, after)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => rest = after,
            _ => {
                out.push_str(BEGIN);
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_and_nothing_else() {
        let refused = std::io::Error::from_raw_os_error(111).to_string();
        assert_eq!(
            plain(&format!("can't: {refused}; also {refused}.")),
            "can't: Connection refused; also Connection refused."
        );
        for same in ["", "all is well", "x (os error ", "x (os error y) z", "x (os error )"] {
            assert_eq!(plain(same), same);
        }
    }
}
