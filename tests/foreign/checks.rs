//! Active checks of OpenSSL servers that serve real clients, but not one that offers what a check offers.

use crate::doctor::Server;
use crate::harness::Lb;
use crate::program::Program;

#[test]
fn openssl_that_rejects_what_a_check_offers_is_up_and_one_that_refuses_the_name_is_not() {
    let Some(openssl) = Program::find("openssl") else { return };
    for (arguments, result, up) in [
        (&[][..], "ok", 1.0),
        (&["-tls1_2"], "ok", 1.0),
        (&["-Verify", "1"], "incompatible", 1.0),
        (&["-Verify", "1", "-tls1_2"], "incompatible", 1.0),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "incompatible", 1.0),
        // RSA key exchange only.
        (&["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"], "incompatible", 1.0),
        (&["-groups", "P-521"], "incompatible", 1.0),
        (&["-alpn", "imap"], "incompatible", 1.0),
        (&["-servername", "other.test", "-servername_fatal"], "tls", 0.0),
    ] {
        let server = Server::start(&openssl, 4000, arguments);
        let keys = "health_check: { interval: 10s, timeout: 5s, fall: 1, rise: 1, alpn: [h2] }";
        let lb = Lb::new().route_with("a.test", server.address, keys).start();
        let backend = server.address.to_string();
        lb.wait_for_metric("health_checks_total", &[("backend", &backend), ("result", result)], 1.0);
        lb.wait_for_metric("backend_up", &[("backend", &backend)], up);
    }
}
