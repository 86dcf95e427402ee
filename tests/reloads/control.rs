//! The admin address changes state, for those who may.

use std::fs;
use std::thread;

use serde_json::json;

use crate::backend::Backend;
use crate::harness::{Lb, Reload};
use crate::trial::Trial;
use crate::wire::{Close, read_to_close};

#[test]
fn a_reload_by_call_answers_with_what_came_of_it() {
    let backend = Backend::answering(b"served");
    // Nobody else may come first.
    let lb = Trial::of(Lb::new().route("a.test", &backend).controlled().with("reload: { watch: false, poll: 1h }"));
    let text = fs::read_to_string(lb.config_file()).unwrap();
    let (status, answer) = lb.call("POST /api/v1/reload", "");
    assert_eq!((status, &answer["result"]), (200, &json!("unchanged")), "{answer}");
    let first = answer["hash"].clone();

    let broken = text.replace("pool: pool-0", "pool: pool-9") + "colour: red\n";
    fs::write(lb.config_file(), broken).unwrap();
    let (status, answer) = lb.call("POST /api/v1/reload", "");
    assert_eq!((status, &answer["result"], &answer["hash"]), (422, &json!("rejected"), &first), "{answer}");
    let problems = answer["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "all of them: {answer}");
    assert_eq!((&problems[0]["line"], &problems[0]["path"]), (&json!(4), &json!("routes[0].pool")), "{answer}");
    assert!(problems[0]["message"].as_str().unwrap().contains("there is no pool `pool-9`"), "{answer}");
    assert!(problems[0]["file"].as_str().unwrap().ends_with("config.yaml"), "{answer}");
    assert!(problems[0]["column"].as_u64() > Some(1) && problems[1]["severity"] == "error", "{answer}");
    let (_, status) = lb.admin_get("/api/v1/status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["last_reload"]["result"], "rejected", "{status}");
    assert_eq!((&status["last_reload"]["trigger"], &status["config"]["hash"]), (&json!("api"), &first), "{status}");
    assert_eq!(lb.answer("a.test"), b"served");

    fs::write(lb.config_file(), text.replace("a.test", "b.test")).unwrap();
    let (status, answer) = lb.call("POST /api/v1/reload", "");
    assert_eq!((status, &answer["result"]), (200, &json!("applied")), "{answer}");
    assert_ne!(answer["hash"], first);
    assert_eq!(lb.answer("b.test"), b"served", "in force when it is answered");
    for result in ["applied", "rejected", "unchanged"] {
        assert_eq!(lb.metric("config_reloads_total", &[("result", result), ("trigger", "api")]), 1.0, "{result}");
    }
    lb.end();
}

#[test]
fn a_call_right_after_a_save_answers_for_that_file() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend).controlled());
    let unused = "  unused:\n    backends: [\"127.0.0.1:1\"]\n";
    let text = fs::read_to_string(lb.config_file()).unwrap().replace("pools:\n", &format!("pools:\n{unused}"));
    // The watch is first.
    assert_eq!(lb.edit(&text), Reload::Applied);
    let (status, answer) = lb.call("POST /api/v1/reload", "");
    assert_eq!((status, &answer["result"]), (200, &json!("applied")), "{answer}");
    assert_eq!(answer["problems"][0]["path"], "pools.unused", "{answer}");
    let (status, answer) = lb.call("POST /api/v1/reload", "");
    assert_eq!((status, &answer["result"]), (200, &json!("unchanged")), "{answer}");
    assert_eq!(answer["problems"][0]["severity"], "warning", "{answer}");
    let warned = lb.log().iter().filter(|line| line["event"] == "config_problem").count();
    assert_eq!(warned, 1, "it is logged once");
    lb.end();
}

#[test]
fn calls_at_the_same_time_are_answered_each() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend).controlled());
    thread::scope(|scope| {
        let calls: Vec<_> = (0..30).map(|_| scope.spawn(|| lb.call("POST /api/v1/reload", "").0)).collect();
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
    lb.end();
}

#[test]
fn the_token_lets_in_and_a_web_page_stays_out() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let reload = |headers: &str| lb.call("POST /api/v1/reload", headers).0;
    let (status, answer) = lb.call("POST /api/v1/reload", "X-Snigate-Control: 1\r\n");
    assert_eq!(status, 403, "an address proves nothing");
    let cure = answer["error"].as_str().unwrap();
    assert!(cure.contains("`admin.token_file`") && cure.contains("admin.bind: unix:"), "{cure}");
    for read in ["Origin: http://evil.example\r\n", "Host: rebound.example\r\nOrigin: http://rebound.example\r\n"] {
        assert_eq!(lb.call("GET /api/v1/config", read).0, 403, "{read}");
        assert_eq!(lb.call("GET /healthz", read).0, 200, "{read}");
    }
    assert_eq!(reload("Authorization: Bearer guess\r\n"), 401, "there is no token");

    // The token's own file counts as a part of the configuration, and is seen when it changes.
    let with_token =
        Lb::new().route("a.test", &backend).with("admin: { bind: \"127.0.0.1:0\", token_file: secret }").config();
    assert_eq!(lb.edit(&with_token), Reload::Rejected, "there is no such file");
    let seen = lb.log().len();
    fs::write(lb.directory().join("secret"), "first\n").unwrap();
    assert_eq!(lb.wait_for_reload_after(seen), Reload::Applied);
    assert_eq!(reload("Authorization: \r\n"), 401);
    assert_eq!(reload("Authorization: Bearer second\r\n"), 401);
    assert_eq!(reload("Authorization: Bearer first\r\n"), 200);
    let seen = lb.log().len();
    fs::write(lb.directory().join("secret"), "second\n").unwrap();
    // The line of the call before may still be on its way.
    lb.wait_for_line_after(seen, |line| line["event"] == "reload_applied");
    assert_eq!(reload("Authorization: Bearer first\r\n"), 401);
    assert_eq!(reload("Authorization: Bearer second\r\n"), 200);
    lb.end();
}

#[test]
fn live_connections_are_listed_and_ended() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(Lb::new().route("a.test", &backend).route("b.test", &backend).controlled());
    let mut clients = ["a.test", "a.test", "b.test"].map(|name| lb.open(name, b"served"));
    let quiet = crate::wire::connect(lb.address());
    lb.wait_for_metric("connections_active", &[], 4.0);

    let (status, answer) = lb.call("GET /api/v1/connections?route=a.test&limit=1", "");
    assert_eq!((status, &answer["matching"]), (200, &json!(2)), "{answer}");
    let first = &answer["connections"][0];
    let client = clients[0].local_addr().unwrap().to_string();
    assert_eq!(
        (&first["client"], &first["sni"], &first["state"]),
        (&json!(client), &json!("a.test"), &json!("relaying"))
    );
    assert_eq!(
        (&first["route"], &first["pool"], &first["listener"]),
        (&json!("a.test"), &json!("pool-0"), &json!("https"))
    );
    assert_eq!(first["backend"], json!(backend.address.to_string()));
    assert_eq!((&first["bytes_to_client"], &answer["next"]), (&json!(6), &first["id"]), "{answer}");
    let next = format!("GET /api/v1/connections?route=a.test&after={}", answer["next"].as_str().unwrap());
    let (_, second) = lb.call(&next, "");
    assert_eq!((second["connections"].as_array().map(Vec::len), &second["next"]), (Some(1), &json!(null)), "{second}");
    let (_, all) = lb.call("GET /api/v1/connections?client=127.0.0.0/8", "");
    assert_eq!((&all["matching"], &all["connections"][3]["state"]), (&json!(4), &json!("hello")), "{all}");

    let id = first["id"].as_str().unwrap();
    assert_eq!(lb.call(&format!("DELETE /api/v1/connections/{id}"), ""), (200, json!({ "ended": 1 })));
    assert_eq!(read_to_close(&mut clients[0]), (vec![], Close::Reset));
    lb.wait_for_closed("killed", 1.0);
    assert_eq!(lb.call(&format!("DELETE /api/v1/connections/{id}"), "").0, 404);
    assert_eq!(lb.call("DELETE /api/v1/connections", "").0, 400);
    assert_eq!(lb.call("DELETE /api/v1/connections?route=a.test", "").1, json!({ "ended": 1 }));
    assert_eq!(read_to_close(&mut clients[1]), (vec![], Close::Reset));
    assert_eq!(lb.wait_for_connection("a.test")["reason"], "killed");
    lb.wait_for_metric("connections_active", &[], 2.0);
    assert_eq!(lb.call("DELETE /api/v1/connections?all=true", "").1, json!({ "ended": 2 }));
    assert_eq!(read_to_close(&mut clients[2]).1, Close::Reset);
    lb.wait_for_closed("killed", 4.0);
    let log = lb.log();
    let logged: Vec<_> = log.iter().filter(|line| line["event"] == "connections_killed").collect();
    let fields = logged.iter().map(|line| (&line["ended"], &line["id"], &line["route"])).collect::<Vec<_>>();
    let (null, one) = (&json!(null), &json!(1));
    assert_eq!(fields, [(one, &json!(id), null), (one, null, &json!("a.test")), (&json!(2), null, null)]);
    drop(quiet);
    lb.end();
}

/// What is told as the configuration in force is one, and the same.
#[test]
fn the_configuration_in_force_can_be_read_back() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).route("*.b.test", &backend).with("timeouts: { idle: 90s }");
    let text = lb.config().replace("sni: \"a.test\"", "sni: [\"c.test\", \"a.test\", \"*\"], alpn: [h2]");
    let lb = Trial::with(&text);
    let (status, first) = lb.admin_get("/api/v1/config");
    let reported: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (status, &reported["timeouts"]["idle"], &reported["timeouts"]["drain"]),
        (200, &json!("90s"), &json!("25s"))
    );
    assert_eq!(reported["routes"][0]["sni"], json!(["c.test", "a.test", "*"]), "{first}");
    assert_eq!(reported["routes"][0]["alpn"], json!(["h2"]), "{first}");
    // A file that cannot be used changes nothing of it.
    assert_eq!(lb.edit("routes: ["), Reload::Rejected);
    assert_eq!(lb.admin_get("/api/v1/config").1, first);
    assert_eq!(lb.edit(&first), Reload::Applied);
    assert_eq!(lb.answer("x.b.test"), b"served");
    assert_eq!(lb.admin_get("/api/v1/config").1, first);
    lb.end();
}
