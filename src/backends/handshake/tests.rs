use std::net::Ipv4Addr;
use std::sync::Mutex;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore, ServerConfig};
use tokio::io::duplex;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate for some names, and its issuers.
struct Signed {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    /// The root that a client must trust.
    root: CertificateDer<'static>,
}

#[derive(Clone, Copy, PartialEq)]
enum By {
    Itself,
    Root,
    /// The chain includes the intermediate.
    Intermediate,
    /// The chain does not include the intermediate.
    IntermediateLeftOut,
}

fn signed(names: &[&str], by: By, edit: impl FnOnce(&mut CertificateParams)) -> Signed {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "the leaf");
    edit(&mut params);
    let key = KeyPair::generate().unwrap();
    if by == By::Itself {
        let leaf = params.self_signed(&key).unwrap().der().clone();
        return Signed { chain: vec![leaf.clone()], key, root: leaf };
    }
    let (root_key, root_params) = (KeyPair::generate().unwrap(), authority("the root"));
    let root = root_params.self_signed(&root_key).unwrap().der().clone();
    let root_issuer = Issuer::new(root_params, root_key);
    if by == By::Root {
        let leaf = params.signed_by(&key, &root_issuer).unwrap().der().clone();
        return Signed { chain: vec![leaf], key, root };
    }
    let (middle_key, middle_params) = (KeyPair::generate().unwrap(), authority("the intermediate"));
    let middle = middle_params.signed_by(&middle_key, &root_issuer).unwrap().der().clone();
    let leaf = params.signed_by(&key, &Issuer::new(middle_params, middle_key)).unwrap().der().clone();
    let chain = if by == By::Intermediate { vec![leaf, middle] } else { vec![leaf] };
    Signed { chain, key, root }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn key_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn server(signed: &Signed) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(signed.chain.clone(), key_der(&signed.key))
        .unwrap()
}

/// Makes one handshake with a server that has this configuration.
async fn ask(config: ServerConfig, asking: &Offer) -> Result<Handshake, HandshakeError> {
    let (client, backend) = duplex(1024);
    let serve = async {
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(backend).await {
            let _ = stream.read(&mut [0; 16]).await;
            let _ = stream.shutdown().await;
        }
    };
    tokio::join!(with(client, asking), serve).0
}

/// Makes one handshake with a peer that sends `bytes` and closes.
async fn ask_a_peer_that_says(bytes: &[u8]) -> HandshakeError {
    let (client, mut backend) = duplex(64 * 1024);
    backend.write_all(bytes).await.unwrap();
    let serve = async move {
        let mut hello = [0; 5];
        let _ = backend.read(&mut hello).await;
    };
    let asking = named("a.test");
    tokio::join!(with(client, &asking), serve).0.expect_err("no handshake")
}

fn named(name: &str) -> Offer {
    Offer { server_name: Some(name.into()), ..Offer::default() }
}

fn trusting(root: &CertificateDer<'static>, name: &str) -> Offer {
    Offer { roots: Some(Roots::new([root.clone()]).unwrap()), ..named(name) }
}

fn refused(handshake: &Handshake) -> String {
    match &handshake.verdict {
        Verdict::Refused(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_handshake_tells_what_was_agreed_and_what_was_shown() {
    let signed = signed(&["a.test", "*.b.test", "192.0.2.7"], By::Intermediate, |_| {});
    for (versions, version, cipher) in [
        (Versions::Tls12And13, Version::Tls13, "TLS13_AES_256_GCM_SHA384"),
        (Versions::Tls13, Version::Tls13, "TLS13_AES_256_GCM_SHA384"),
        (Versions::Tls12, Version::Tls12, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ] {
        let mut config = server(&signed);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let alpn = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let handshake = ask(config, &Offer { alpn, versions, ..trusting(&signed.root, "a.test") }).await.unwrap();
        assert_eq!((handshake.version, handshake.cipher), (version, cipher));
        assert_eq!(handshake.group.as_deref(), Some("X25519"));
        assert_eq!(handshake.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(*handshake.chain, *signed.chain);
        assert_eq!(handshake.verdict, Verdict::Verified);
        assert!(!handshake.asked_for_client_certificate && !handshake.retried && handshake.late_alert.is_none());
        let leaf = handshake.leaf.unwrap();
        assert_eq!(
            (&leaf.names[..], &leaf.addresses[..]),
            (&["a.test".to_owned(), "*.b.test".to_owned()][..], &["192.0.2.7".parse().unwrap()][..])
        );
        assert_eq!((leaf.subject.as_str(), leaf.issuer.as_str()), ("CN=the leaf", "CN=the intermediate"));
        assert_eq!((leaf.common_name, leaf.self_signed), (None, false));
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_should_trust_is_shown_all_the_same() {
    let other = signed(&["a.test"], By::Root, |_| {}).root;
    let past = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let future = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    for versions in [Versions::Tls12, Versions::Tls13] {
        let reported = async |signed: Signed, root: &CertificateDer<'static>, name: &str| {
            let handshake = ask(server(&signed), &Offer { versions, ..trusting(root, name) }).await.unwrap();
            assert_eq!(*handshake.chain, *signed.chain);
            assert!(handshake.leaf.is_ok());
            refused(&handshake)
        };
        let untrusted = reported(signed(&["a.test"], By::Itself, |_| {}), &other, "a.test").await;
        assert!(untrusted.contains("UnknownIssuer"), "{untrusted}");
        let left_out = signed(&["a.test"], By::IntermediateLeftOut, |_| {});
        let (root, incomplete) = (left_out.root.clone(), left_out);
        assert!(reported(incomplete, &root, "a.test").await.contains("UnknownIssuer"));
        let elsewhere = signed(&["b.test"], By::Root, |_| {});
        let root = elsewhere.root.clone();
        assert!(reported(elsewhere, &root, "a.test").await.contains("not valid for name"));
        let expired = signed(&["a.test"], By::Root, past);
        let root = expired.root.clone();
        assert!(reported(expired, &root, "a.test").await.contains("expired"));
        let early = signed(&["a.test"], By::Root, future);
        let root = early.root.clone();
        assert!(reported(early, &root, "a.test").await.contains("not valid yet"));
    }
}

#[tokio::test]
async fn without_roots_nothing_is_judged_and_without_a_name_no_name_is() {
    let signed = signed(&["b.test"], By::Root, |_| {});
    assert_eq!(ask(server(&signed), &named("a.test")).await.unwrap().verdict, Verdict::NotAsked);
    let nameless = Offer { server_name: None, ..trusting(&signed.root, "a.test") };
    assert_eq!(ask(server(&signed), &nameless).await.unwrap().verdict, Verdict::Verified);
}

/// Records the server names it receives, and rejects all of them.
#[derive(Debug, Default)]
struct Refuses(Mutex<Vec<Option<String>>>);

impl ResolvesServerCert for Refuses {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().push(hello.server_name().map(str::to_owned));
        None
    }
}

#[tokio::test]
async fn the_name_is_sent_or_left_out_and_a_refusal_is_reported_by_its_alert() {
    let resolver = Arc::new(Refuses::default());
    for asking in [named("A.test"), Offer::default()] {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as _);
        let HandshakeError::Alert(alert) = ask(config, &asking).await.expect_err("refused") else { panic!("no alert") };
        assert_eq!((alert.name(), alert.code()), ("access_denied", 49));
    }
    assert_eq!(*resolver.0.lock().unwrap(), [Some("a.test".to_owned()), None]);
}

#[tokio::test]
async fn what_is_no_tls_is_reported_by_its_first_bytes() {
    let HandshakeError::NotTls { first } = ask_a_peer_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await else {
        panic!("taken for TLS")
    };
    assert_eq!(first, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(matches!(ask_a_peer_that_says(b"SSH").await, HandshakeError::NotTls { .. }));
    assert!(matches!(ask_a_peer_that_says(&[b'x'; 1000]).await, HandshakeError::NotTls { first } if first.len() == 64));
}

#[tokio::test]
async fn a_close_is_reported_apart_by_whether_an_answer_had_begun() {
    assert!(matches!(ask_a_peer_that_says(b"").await, HandshakeError::ClosedWithoutAnswer));
    let begun = ask_a_peer_that_says(b"\x16\x03\x03\x00\x40\x02").await;
    assert!(matches!(begun, HandshakeError::ClosedEarly { got: 6 }), "{begun:?}");
    let alert = ask_a_peer_that_says(b"\x15\x03\x03\x00\x02\x02\x70").await;
    assert_eq!(alert.to_string(), "refused by the alert unrecognized_name (112)");
    assert!(matches!(ask_a_peer_that_says(b"\x16\x03\x03\x00\x04\x7f\0\0\0").await, HandshakeError::Tls(_)));
}

#[tokio::test]
async fn a_name_that_cannot_be_sent_is_no_fault_of_the_backend() {
    let (client, _backend) = duplex(64);
    assert!(matches!(with(client, &named("no name")).await, Err(HandshakeError::NotAName)));
}

#[tokio::test]
async fn a_wish_for_a_client_certificate_is_seen_and_its_lack_reported_late() {
    let signed = signed(&["a.test"], By::Root, |_| {});
    let mut store = RootCertStore::empty();
    store.add(signed.root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(signed.chain.clone(), key_der(&signed.key))
        .unwrap();
    let tls12 = ask(config.clone(), &Offer { versions: Versions::Tls12, ..named("a.test") }).await;
    assert!(matches!(tls12, Err(HandshakeError::WantsClientCertificate { alert: Some(_), .. })), "{tls12:?}");
    let handshake = ask(config, &named("a.test")).await.unwrap();
    assert!(handshake.asked_for_client_certificate);
    assert_eq!(handshake.late_alert.map(Alert::name), Some("certificate_required"));
}

#[tokio::test]
async fn a_hello_in_small_records_is_the_same_hello() {
    let signed = signed(&["a.test"], By::Root, |_| {});
    let asking = Offer { max_record_bytes: Some(32), ..trusting(&signed.root, "a.test") };
    assert_eq!(ask(server(&signed), &asking).await.unwrap().verdict, Verdict::Verified);
}

#[tokio::test]
async fn the_post_quantum_hello_is_larger_than_a_packet_and_both_its_shares_are_real() {
    let signed = signed(&["a.test"], By::Root, |_| {});
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let asking = Offer { key_exchange: KeyExchange::PostQuantum, alpn, ..trusting(&signed.root, "a.test") };
    for group in [X25519, X25519MLKEM768] {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![group];
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(signed.chain.clone(), key_der(&signed.key))
            .unwrap();
        let handshake = ask(config, &asking).await.unwrap();
        let name = format!("{:?}", group.name());
        assert_eq!((handshake.group, handshake.retried), (Some(name), false));
        assert_eq!(handshake.verdict, Verdict::Verified);
        // The TCP payload of one Ethernet packet: 1500 bytes minus two headers of 20.
        assert!(handshake.hello_bytes > 1460, "{}", handshake.hello_bytes);
    }
}

#[test]
fn a_certificate_without_alternative_names_tells_its_common_name_and_covers_nothing() {
    let own = signed(&[], By::Itself, |_| {});
    let leaf = Certificate::read(&own.chain[0]).unwrap();
    assert_eq!((leaf.common_name.as_deref(), leaf.self_signed), (Some("the leaf"), true));
    assert!(leaf.names.is_empty() && !leaf.covers("the leaf"));
    assert_eq!(Certificate::read(&CertificateDer::from(vec![0x30, 0x82])), Err(Unreadable));
}

#[test]
fn dates_and_fingerprint_are_those_of_the_certificate() {
    let own = signed(&["a.test"], By::Itself, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let leaf = Certificate::read(&own.chain[0]).unwrap();
    assert_eq!((leaf.not_before, leaf.not_after), (1_577_836_800, 1_893_456_000));
    assert_eq!(leaf.fingerprint, aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &own.chain[0]).as_ref());
}

#[test]
fn a_wildcard_stands_for_one_label_and_case_for_nothing() {
    let names = ["shop.example", "*.Shop.example", "*.test", "*", "a*.example.com", "*.*.example.org", "b.*.example"];
    let own = signed(&names, By::Itself, |_| {});
    let leaf = Certificate::read(&own.chain[0]).unwrap();
    for name in ["shop.example", "SHOP.example", "shop.example.", "a.shop.example", "xn--a.shop.EXAMPLE"] {
        assert!(leaf.covers(name), "{name}");
    }
    for name in ["", ".", "example", "b.a.shop.example", ".shop.example", "a.test", "ab.example.com", "a.b.example.org"]
    {
        assert!(!leaf.covers(name), "{name}");
    }
}

#[test]
fn an_address_is_covered_by_an_address_only() {
    let own = signed(&["192.0.2.7", "2001:db8::1", "a.test"], By::Itself, |_| {});
    let leaf = Certificate::read(&own.chain[0]).unwrap();
    assert!(leaf.covers("192.0.2.7") && leaf.covers("2001:db8:0::1") && leaf.covers("a.test"));
    assert!(!leaf.covers("192.0.2.8") && !leaf.covers("::1"));
    assert!(leaf.addresses.contains(&Ipv4Addr::new(192, 0, 2, 7).into()));
}

/// The same check, by webpki.
fn webpki_covers(leaf: &CertificateDer<'_>, name: &str) -> bool {
    let leaf = rustls::server::ParsedCertificate::try_from(leaf).unwrap();
    let Ok(name) = ServerName::try_from(name) else { return false };
    match rustls::client::verify_server_name(&leaf, &name) {
        Ok(()) => true,
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => false,
        Err(other) => panic!("{other}"),
    }
}

fn presented_or_asked() -> impl Strategy<Value = String> {
    let label = prop_oneof![4 => "[ab]", 1 => "[AB]", 2 => Just("*".to_owned()), 1 => "[a*]{2}"];
    prop::collection::vec(label, 1..5).prop_map(|labels| labels.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn names_are_covered_as_webpki_covers_them(presented in presented_or_asked(), asked in presented_or_asked()) {
        let own = signed(&[&presented], By::Itself, |_| {});
        let leaf = Certificate::read(&own.chain[0]).unwrap();
        if ServerName::try_from(asked.as_str()).is_ok() {
            prop_assert_eq!(leaf.covers(&asked), webpki_covers(&own.chain[0], &asked), "{} for {}", presented, asked);
        }
    }

    #[test]
    fn whatever_a_peer_says_is_an_error_and_no_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), record: bool) {
        if record {
            let mut framed = vec![22, 3, 3, 0, bytes.len() as u8];
            framed.append(&mut bytes);
            bytes = framed;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(ask_a_peer_that_says(&bytes)).reason();
    }

    #[test]
    fn a_damaged_certificate_is_unreadable_or_another_but_no_panic(at: prop::sample::Index, byte: u8) {
        let mut der = signed(&["a.test", "*.b.test"], By::Itself, |_| {}).chain[0].to_vec();
        let at = at.index(der.len());
        der[at] = byte;
        if let Ok(leaf) = Certificate::read(&CertificateDer::from(der)) {
            leaf.covers("a.test");
        }
    }
}
