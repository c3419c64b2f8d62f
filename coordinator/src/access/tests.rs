#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

const WORKER: &str = "worker-worker-worker";
const ADMIN: &str = "admin-admin-admin-admin";

fn token(text: &str) -> Option<Token> {
    Some(Token::new(text).unwrap())
}

fn access(worker: Option<Token>, admin: Option<Token>, mutual: bool) -> Access {
    let tokens = Access::new(AccessOptions { worker, admin, ..AccessOptions::default() }).unwrap();
    Access { mutual, ..tokens }
}

/// What callers of each kind get: nothing, a certificate, the worker's, the admin's, a wrong token, no bearer.
fn answers(access: &Access, service: Role, also: Option<Role>) -> String {
    let bearers = [WORKER, ADMIN, "worker-worker-worked"].map(|token| format!("Bearer {token}"));
    let mut shown = vec![(None, false), (None, true)];
    shown.extend(bearers.iter().map(|text| (Some(text.as_bytes()), false)));
    shown.push((Some(WORKER.as_bytes()), false));
    let answer =
        |(authorization, certificate)| match access.authorise(service, also, Shown { authorization, certificate }) {
            Ok(()) => '+',
            Err(refusal) => match tonic::Status::from(refusal).code() {
                tonic::Code::Unauthenticated => '?',
                tonic::Code::PermissionDenied => '-',
                other => panic!("{other}"),
            },
        };
    shown.into_iter().map(answer).collect()
}

#[test]
fn each_call_takes_its_roles_credential_and_no_other() {
    let (worker, admin) = (token(WORKER), token(ADMIN));
    let table = [
        // Credentials of the coordinator; then who may join, upload, and administer.
        (access(None, None, false), ["++++++", "++++++", "++++++"]),
        (access(worker.clone(), None, false), ["??+???", "??+???", "------"]),
        (access(None, admin.clone(), false), ["++++++", "++++++", "???+??"]),
        (access(worker.clone(), admin.clone(), false), ["?++-??", "?+++??", "?--+??"]),
        (access(None, None, true), ["?+????", "?+????", "------"]),
        (access(None, admin.clone(), true), ["?+?-??", "?+?+??", "?-?+??"]),
        (access(worker, admin, true), ["?++-??", "?+++??", "?--+??"]),
    ];
    for (access, expected) in table {
        let calls = [(Role::Worker, None), (Role::Worker, Some(Role::Admin)), (Role::Admin, None)];
        let mut found = calls.map(|(service, also)| answers(&access, service, also));
        if !access.mutual {
            // Without a CA no connection has a certificate.
            found = found.map(|mut row| {
                row.replace_range(1..2, "_");
                row
            });
        }
        for (found, expected) in found.iter().zip(expected) {
            let mut expected = expected.to_owned();
            if !access.mutual {
                expected.replace_range(1..2, "_");
            }
            assert_eq!(*found, expected, "{access:?}");
        }
    }
}

#[test]
fn a_refusal_says_which_role_is_needed_and_shows_no_token() {
    let access = access(token(WORKER), token(ADMIN), false);
    let refusal = |service, authorization: Option<&str>| {
        let shown = Shown { authorization: authorization.map(str::as_bytes), certificate: false };
        access.authorise(service, None, shown).unwrap_err().to_string()
    };
    let wrong = refusal(Role::Admin, Some(&format!("Bearer {WORKER}")));
    for part in ["needs the admin's token", "the worker's credential", "INFLUENCE_ADMIN_TOKEN"] {
        assert!(wrong.contains(part), "{part} is missing in: {wrong}");
    }
    let missing = refusal(Role::Worker, None);
    for part in ["needs the worker's token", "none was sent", "--token-file"] {
        assert!(missing.contains(part), "{part} is missing in: {missing}");
    }
    let unknown = refusal(Role::Worker, Some("Bearer secret-secret-secret"));
    assert!(unknown.contains("--tokens") && !unknown.contains("secret"), "{unknown}");
    let shown = format!("{access:?}");
    let digest = Digest::of(WORKER).to_string();
    assert!(shown.contains("worker_token: true") && !shown.contains(&digest[..8]), "{shown}");
}

#[test]
fn where_a_coordinator_may_listen() {
    let plain = |worker: bool, allow_plaintext: bool| {
        let worker = worker.then(|| Token::new(WORKER).unwrap());
        Access::new(AccessOptions { worker, allow_plaintext, ..AccessOptions::default() }).unwrap()
    };
    let pem = tls_pem();
    let tls = |worker: bool, mutual: bool| {
        let worker = worker.then(|| Token::new(WORKER).unwrap());
        let client_ca = mutual.then(|| pem.certificate.clone());
        let tls = Some(TlsPem { client_ca, ..pem.clone() });
        Access::new(AccessOptions { worker, tls, ..AccessOptions::default() }).unwrap()
    };
    for local in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        plain(false, false).permits(local.parse().unwrap()).expect(local);
    }
    for address in ["0.0.0.0:50051", "192.0.2.7:50051", "[::]:50051", "[::ffff:192.0.2.7]:50051"] {
        let address: SocketAddr = address.parse().unwrap();
        let (nothing, unread) = (Exposed::NoCredential { address }, Exposed::PlainText { address });
        assert_eq!(plain(false, false).permits(address), Err(nothing.clone()));
        assert_eq!(
            plain(false, true).permits(address),
            Err(nothing.clone()),
            "plain text is one thing, no token another"
        );
        assert_eq!(tls(false, false).permits(address), Err(nothing.clone()));
        assert_eq!(plain(true, false).permits(address), Err(unread.clone()));
        for enough in [plain(true, true), tls(true, false), tls(false, true), tls(true, true)] {
            assert_eq!(enough.permits(address), Ok(()), "{enough:?}");
        }
        for (refusal, flags) in [
            (nothing.to_string(), ["--tokens", "--tls-client-ca", "--listen 127.0.0.1:50051"]),
            (unread.to_string(), ["--tls-cert", "--tls-key", "--allow-plaintext"]),
        ] {
            for part in flags.into_iter().chain([address.to_string().as_str()]) {
                assert!(refusal.contains(part), "{part} is missing in: {refusal}");
            }
        }
    }
}

fn tls_pem() -> TlsPem {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
    TlsPem { certificate, key, client_ca: None }
}

#[test]
fn credentials_that_cannot_work_are_refused_by_their_flag() {
    let same = AccessOptions { worker: token(WORKER), admin: token(WORKER), ..AccessOptions::default() };
    assert_eq!(Access::new(same).unwrap_err(), AccessError::SameToken);

    let pem = tls_pem();
    let refused = |tls: TlsPem| {
        assert!(!format!("{tls:?}").contains("BEGIN"), "keys are not shown");
        Access::new(AccessOptions { tls: Some(tls), ..AccessOptions::default() }).unwrap_err().to_string()
    };
    let junk = || b"not a certificate".to_vec();
    let other = tls_pem().key;
    for (tls, flag) in [
        (TlsPem { certificate: junk(), ..pem.clone() }, "--tls-cert "),
        (TlsPem { key: junk(), ..pem.clone() }, "--tls-key "),
        (TlsPem { client_ca: Some(junk()), ..pem.clone() }, "--tls-client-ca "),
        (TlsPem { key: other, ..pem.clone() }, "--tls-cert with --tls-key"),
    ] {
        let said = refused(tls);
        assert!(said.contains(flag.trim_end()), "{flag} is missing in: {said}");
    }
}
