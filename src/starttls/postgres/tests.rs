use super::*;

/// A packet of this length that begins with this code.
fn packet(length: u32, code: u32) -> Vec<u8> {
    let mut packet = [length.to_be_bytes(), code.to_be_bytes()].concat();
    packet.resize((length as usize).clamp(8, 20_000), 0);
    packet
}

/// Feeds `bytes` one at a time, as a client does that waits for each answer: what it is sent, and how it ends.
fn drip(bytes: &[u8]) -> (Vec<u8>, Result<Step, Refused>) {
    let (mut client, mut come, mut sent) = (Client::default(), Vec::new(), Vec::new());
    let mut bytes = bytes.iter();
    loop {
        match client.step(&come) {
            Ok(Step::Send { taken, bytes }) => {
                come.drain(..taken);
                sent.extend_from_slice(bytes);
            }
            Ok(Step::Needs(_)) if bytes.len() > 0 => come.extend(bytes.next()),
            end => return (sent, end),
        }
    }
}

#[test]
fn a_client_is_answered_until_tls_begins() {
    let (ssl, gss) = (packet(8, SSL_REQUEST), packet(8, GSSENC_REQUEST));
    let tls = Ok(Step::Tls { taken: 0 });
    assert_eq!(drip(&ssl), (b"S".to_vec(), tls));
    assert_eq!(drip(&[gss.clone(), ssl.clone()].concat()), (b"NS".to_vec(), tls));
    assert_eq!(drip(&[0x16, 3, 1]), (vec![], tls));
    // Once TLS was promised, nothing but TLS is read.
    assert_eq!(drip(&[&ssl[..], &ssl].concat()), (b"S".to_vec(), tls));
    assert_eq!(drip(&[&gss[..], &gss].concat()), (b"N".to_vec(), Err(Refused::Again)));
    // As the server does: in clear, only another packet may follow an N.
    assert_eq!(drip(&[&gss[..], &[0x16, 3, 1]].concat()), (b"N".to_vec(), Err(Refused::Foreign)));
    assert_eq!(drip(&[&gss[..], &packet(50, 0x0003_0000)].concat()), (b"N".to_vec(), Err(Refused::Plain)));
}

#[test]
fn every_prefix_needs_more_and_never_more_than_a_request() {
    for code in [SSL_REQUEST, GSSENC_REQUEST, CANCEL_REQUEST, 0x0003_0000] {
        let bytes = packet(if code == CANCEL_REQUEST { 16 } else { 8 }, code);
        for cut in 0..REQUEST_BYTES {
            let step = Client::default().step(&bytes[..cut]);
            assert!(matches!(step, Ok(Step::Needs(more)) if cut + more.get() <= REQUEST_BYTES), "{cut}: {step:?}");
        }
    }
}

#[test]
fn what_follows_a_request_before_its_answer_is_refused() {
    for code in [SSL_REQUEST, GSSENC_REQUEST] {
        for behind in [1, 8, 517] {
            let bytes = [packet(8, code), vec![0x16; behind]].concat();
            assert_eq!(Client::default().step(&bytes), Err(Refused::Injected { bytes: behind }));
        }
    }
}

#[test]
fn a_client_without_tls_is_refused_as_soon_as_that_is_known() {
    for (packet, expected) in [
        (packet(84, 0x0003_0000), Refused::Plain),
        (packet(84, 0x0003_0002), Refused::Plain),
        (packet(296, 0x0002_0000), Refused::Plain),
        (packet(16, CANCEL_REQUEST), Refused::Cancel),
        (packet(268, CANCEL_REQUEST), Refused::Cancel),
        (packet(84, 0x0004_0001), Refused::Version { major: 4, minor: 1 }),
        (packet(8, 80_877_105), Refused::Version { major: 1234, minor: 5681 }),
        (packet(8, 0), Refused::Version { major: 0, minor: 0 }),
        (packet(10_004, 0x0003_0000), Refused::Plain),
    ] {
        assert_eq!(Client::default().step(&packet[..8]), Err(expected), "{:?}", &packet[..8]);
        assert_eq!(Client::default().step(&packet), Err(expected));
    }
}

#[test]
fn a_length_that_no_packet_has_is_refused_before_the_packet_came() {
    for length in [0_u32, 1, 4, 7, 10_005, 65_536, 0x00ff_ffff] {
        let bytes = length.to_be_bytes();
        assert_eq!(Client::default().step(&bytes), Err(Refused::Length { bytes: length }));
    }
    for (length, code) in
        [(9, SSL_REQUEST), (16, SSL_REQUEST), (10_004, SSL_REQUEST), (12, GSSENC_REQUEST), (8, CANCEL_REQUEST)]
    {
        assert_eq!(Client::default().step(&packet(length, code)), Err(Refused::Length { bytes: length }), "{code}");
    }
}

#[test]
fn other_protocols_are_foreign_from_their_first_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", b"PROXY TCP4 ", &[0x15, 3, 3], &[0xff]] {
        assert_eq!(Client::default().step(bytes), Err(Refused::Foreign));
        assert_eq!(Client::default().step(&bytes[..1]), Err(Refused::Foreign));
    }
}

#[test]
fn a_backend_is_asked_first_and_must_say_yes_and_nothing_else() {
    let answered = |answer: &[u8]| {
        let mut backend = Backend::default();
        assert_eq!(backend.step(&[]), Ok(Step::Send { taken: 0, bytes: &SSL_REQUEST_PACKET }));
        assert_eq!(backend.step(&[]), Ok(Step::Needs(NonZeroUsize::MIN)));
        backend.step(answer)
    };
    assert_eq!(answered(b"S"), Ok(Step::Tls { taken: 1 }));
    assert_eq!(answered(b"S\x16\x03"), Err(Declined::Injected { bytes: 2 }));
    assert_eq!(answered(b"N"), Err(Declined::NoTls));
    let full = error("53300", "sorry, too many clients already", None);
    for error in [full.as_slice(), b"Esorry, too many clients already\n\0"] {
        assert_eq!(answered(error), Err(Declined::Error("sorry, too many clients already".into())));
    }
    assert_eq!(answered(b"E"), Err(Declined::Error("".into())));
    assert_eq!(answered(b"SSH-2.0-x"), Err(Declined::Foreign("SSH-2.0-x".into())));
    assert_eq!(answered(b"220 mail\r\n"), Err(Declined::Foreign("220 mail\\r\\n".into())));
    assert!(matches!(answered(&[b'x'; 4096]), Err(Declined::Foreign(shown)) if shown.len() == 80));
    // Control characters do not reach the log.
    assert_eq!(answered(b"E\x1b[2J\0"), Err(Declined::Error("\\x1b[2J".into())));
}

#[test]
fn a_refusal_is_an_error_message_of_the_protocol() {
    for refused in [
        Refused::Plain,
        Refused::Version { major: 4, minor: 0 },
        Refused::Injected { bytes: 1 },
        Refused::Length { bytes: 9 },
        Refused::Again,
    ] {
        let bytes = refusal(refused);
        assert_eq!(bytes[0], b'E');
        assert_eq!(u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize, bytes.len() - 1);
        assert!(bytes.ends_with(&[0, 0]), "{refused:?}");
        let fields: Vec<&[u8]> = bytes[5..bytes.len() - 2].split(|byte| *byte == 0).collect();
        assert!(fields.starts_with(&[b"SFATAL", b"VFATAL"]), "{refused:?}");
        assert!(fields[2].len() == 6 && fields[2][0] == b'C' && fields[3][0] == b'M', "{refused:?}");
        assert!(!message(&bytes[1..]).is_empty());
    }
    for silent in [Refused::Cancel, Refused::Foreign] {
        assert!(refusal(silent).is_empty());
    }
}

#[test]
fn what_begins_a_connection_is_recognized() {
    for code in [SSL_REQUEST, GSSENC_REQUEST, CANCEL_REQUEST, 0x0003_0000, 0x0003_0002] {
        assert!(is_first_packet(&packet(8, code)));
    }
    for bytes in [&b"GET / HTTP/1.1"[..], &[0; 8], &[0, 0, 0, 8, 4, 0xd2, 0x16], &packet(20_000, SSL_REQUEST)] {
        assert!(!is_first_packet(bytes));
    }
}
