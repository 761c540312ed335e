//! Writer endpoints as one text: where a URI names only one address, there is one for each endpoint, with commas between.

use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;

/// Tries them in order; what the first gives that answers. Each is tried for so long: an endpoint takes a connection before it
/// knows whether there is a database behind it.
///
/// # Errors
/// None answers; the last error.
pub async fn first<'a, T, F>(dsn: &'a str, each: Duration, open: impl Fn(&'a str) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut last = anyhow::anyhow!("no address in the DSN");
    for uri in dsn.split(',') {
        match timeout(each, open(uri.trim())).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(e)) => last = e,
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}

/// The same, but another comes first: each client begins with an endpoint of its own.
#[must_use]
pub fn beginning_with(dsn: &str, nth: usize) -> String {
    let mut uris: Vec<&str> = dsn.split(',').collect();
    let first = nth % uris.len();
    uris.rotate_left(first);
    uris.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_that_answers_is_taken() {
        let open = async |uri: &str| {
            anyhow::ensure!(uri != "a", "a is down");
            if uri == "b" {
                std::future::pending::<()>().await;
            }
            Ok(uri.to_owned())
        };
        let each = Duration::from_millis(10);
        assert_eq!(first("a,b, c,d", each, open).await.unwrap(), "c");
        assert_eq!(first("a", each, open).await.unwrap_err().to_string(), "a is down");
        assert!(first("b", each, open).await.unwrap_err().is::<tokio::time::error::Elapsed>());
    }

    #[test]
    fn every_client_begins_with_another() {
        assert_eq!([0, 1, 3].map(|n| beginning_with("a,b,c", n)), ["a,b,c", "b,c,a", "a,b,c"]);
    }
}
