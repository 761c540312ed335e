//! Certificates that are in order, and those that are not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::error::Error;
use std::fs;

use trine_protocol::NodeName;
use trine_transport::{Authority, AuthorityError, Identity, IdentityError};

fn node(n: &str) -> NodeName {
    n.parse().unwrap()
}

#[test]
fn an_authority_survives_being_written_and_read() {
    let ca = Authority::create("0a7e2f44-1111-4222-8333-444455556666").unwrap();
    let (cert, key) = ca.to_pem();
    let again = Authority::from_pem(&cert, &key).unwrap();
    assert_eq!(again.cluster_id(), ca.cluster_id());
    let address = "10.0.0.1".parse().unwrap();
    let (node_cert, node_key) = again.issue(&node("n1"), &[address, "::1".parse().unwrap()]).unwrap();
    let id = Identity::load(&cert, &node_cert, &node_key, ca.cluster_id()).unwrap();
    assert_eq!(id.name(), &node("n1"));
    assert!(!format!("{ca:?} {id:?}").contains("PRIVATE"));

    let other = Authority::create("c2").unwrap();
    assert!(matches!(Authority::from_pem(&cert, &other.to_pem().1), Err(AuthorityError::KeyMismatch)));
    assert!(matches!(Authority::from_pem(&node_cert, &node_key), Err(AuthorityError::NotAnAuthority)));
    assert!(matches!(Authority::from_pem("no", &key), Err(AuthorityError::Certificate(_))));
    assert!(matches!(Authority::from_pem(&cert, "no"), Err(AuthorityError::Key(_))));
    assert!(matches!(Authority::create("a b"), Err(AuthorityError::ClusterId(_))));
}

/// The whole chain of reasons as a person would read it.
fn told(e: &IdentityError) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(s) = next {
        text = format!("{text}: {s}");
        next = s.source();
    }
    text
}

#[test]
fn what_is_wrong_is_said_with_the_files_name() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::create("c1").unwrap();
    let other = Authority::create("c1").unwrap();
    let (cert, key) = ca.issue(&node("n1"), &[]).unwrap();
    let paths = ["ca.pem", "node.pem", "node.key"].map(|f| dir.path().join(f));
    let try_with = |ca: &str, cert: &str, key: &str, id: &str| {
        for (path, text) in paths.iter().zip([ca, cert, key]) {
            fs::write(path, text).unwrap();
        }
        told(&Identity::load_files(&paths[0], &paths[1], &paths[2], id).unwrap_err())
    };
    let ca_pem = ca.to_pem().0;

    let said = try_with(&ca_pem, &cert, &key, "c2");
    assert!(said.contains("ca.pem") && said.contains("cluster c1, this is cluster c2"), "{said}");
    let said = try_with(&ca_pem, "garbage", &key, "c1");
    assert!(said.contains("node.pem") && said.contains("PEM"), "{said}");
    let said = try_with(&ca_pem, &cert, "garbage", "c1");
    assert!(said.contains("node.key") && said.contains("PEM"), "{said}");
    let said = try_with(&ca_pem, &cert, &ca.issue(&node("n1"), &[]).unwrap().1, "c1");
    assert!(said.contains("node.key does not fit"), "{said}");
    let said = try_with(&other.to_pem().0, &cert, &key, "c1");
    assert!(said.contains("node.pem was not issued by"), "{said}");

    let stale = expired(&ca);
    let said = try_with(&ca_pem, &stale.0, &stale.1, "c1");
    assert!(said.contains("node.pem has expired on"), "{said}");

    fs::remove_file(&paths[1]).unwrap();
    let said = told(&Identity::load_files(&paths[0], &paths[1], &paths[2], "c1").unwrap_err());
    assert!(said.contains("can't read") && said.contains("node.pem"), "{said}");
}

/// A certificate that ran out years ago.
fn expired(ca: &Authority) -> (String, String) {
    let issuer_key = rcgen::KeyPair::from_pem(&ca.to_pem().1).unwrap();
    let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), issuer_key);
    let mut params = rcgen::CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "n1");
    params.subject_alt_names.push(rcgen::SanType::URI("trine:c1".try_into().unwrap()));
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}
