//! Clients that say goodbye before they close: TLS, PostgreSQL, MQTT. Their server may answer with its end at once, so there
//! is a link between the two, as for any server that is not on the same machine.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use super::{WITHOUT, time_waits};
use crate::support::lab::{Lab, Place, Running, SERVER, needs};
use crate::support::{find, scratch, test_with, text};

const COUNT: usize = 60;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test_with(&needs(["ss", "curl", "openssl"]), "time_wait::goodbyes::https", || {
            says_goodbye("https", python, 8443, &curl(), "hello", COUNT / 20);
        }),
        // A server that closes as soon as it reads the goodbye: where nothing delays the two, its FIN may cross the client's.
        test_with(&needs(["ss", "curl", "nginx", "openssl"]), "time_wait::goodbyes::https_of_nginx", || {
            says_goodbye("https of nginx", nginx, 8443, &curl(), "hello", COUNT / 4);
        }),
        test_with(&needs(["ss", "psql", "postgres", "unshare"]), "time_wait::goodbyes::postgresql", || {
            let psql = format!("psql -X -A -t -h {SERVER} -U somebody -d postgres -c 'select 1'");
            says_goodbye("postgresql", postgres, 5432, &psql, "1", COUNT / 10);
        }),
        test_with(&needs(["ss", "mosquitto", "mosquitto_pub"]), "time_wait::goodbyes::mqtt", || {
            // It has an answer for each message of this kind.
            let publish = format!("mosquitto_pub -h {SERVER} -q 1 -t topic -m message && echo sent");
            says_goodbye("mqtt", mosquitto, 1883, &publish, "sent", COUNT / 10);
        }),
    ]
}

fn curl() -> String {
    format!("curl -qsS --noproxy '*' --cacert \"$1/cert.pem\" https://{SERVER}:8443/")
}

/// Measured, of 60, with and without: HTTPS 0 and 59, of nginx 0 to 5 and 25 to 35, PostgreSQL 0 and 54 to 59, MQTT 0 or 1 and
/// 30 to 52; where the server was the first it has the TIME_WAIT. Seen to fail: without the option, where it counts as well.
fn says_goodbye(name: &str, server: fn(&Lab, &Path) -> Running, port: u16, client: &str, said: &str, most_left: usize) {
    let lab = Lab::with_link();
    let folder = scratch(&format!("goodbyes {name}"));
    let _server = server(&lab, &folder);
    lab.wait_for(1, |socket| socket.listens_on(port));
    let loop_ = format!("i=0; while [ $i -lt {COUNT} ]; do {client} || exit; i=$((i+1)); done");
    let go = |environment: &[&str]| {
        let mut command = lab.covered(Place::Client, environment, "sh");
        command.args(["-c", &loop_, "sh"]).arg(&folder);
        let output = Running::start(command).finish();
        assert_eq!(text(&output), (format!("{said}\n").repeat(COUNT), String::new()), "{environment:?}");
        time_waits(&lab, Place::Client)
    };
    let with = go(&[WITHOUT]);
    let without = go(&[]) - with;
    eprintln!("{name}: {with} of {COUNT} TIME_WAIT with, {without} without");
    assert!(with <= most_left, "{with} of {COUNT}");
    assert!(without > most_left.max(COUNT / 4), "{without} of {COUNT} without the library");
}

fn nginx(lab: &Lab, folder: &Path) -> Running {
    let path = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path \"{path}/{kind}\";\n"))
        .concat();
    let configuration = format!(
        "daemon off; master_process off; user root; pid \"{path}/pid\";
        events {{}}
        http {{
            access_log off;
            {temporary}
            server {{
                listen {SERVER}:8443 ssl;
                ssl_certificate \"{path}/cert.pem\";
                ssl_certificate_key \"{path}/key.pem\";
                location / {{ return 200 \"hello\\n\"; }}
            }}
        }}"
    );
    fs::write(folder.join("nginx.conf"), configuration).expect("a file");
    certificate(lab, folder);
    let mut nginx = lab.command(Place::Server, &[], "nginx");
    nginx.args(["-e", "stderr", "-c"]).arg(folder.join("nginx.conf"));
    Running::start(nginx)
}

/// Reads the goodbye, and closes 1 ms later: less than over any network.
const PYTHON: &str = r#"
import socket, ssl, sys, time
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2] + "/cert.pem", sys.argv[2] + "/key.pem")
listener = socket.create_server((sys.argv[1], 8443), backlog=128)
while True:
    with context.wrap_socket(listener.accept()[0], server_side=True) as s:
        s.recv(65536)
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
        s.recv(1)
        time.sleep(0.001)
"#;

fn python(lab: &Lab, folder: &Path) -> Running {
    certificate(lab, folder);
    let mut python = lab.command(Place::Server, &[], "python3");
    python.args(["-c", PYTHON, SERVER]).arg(folder);
    Running::start(python)
}

fn certificate(lab: &Lab, folder: &Path) {
    let mut openssl = lab.command(Place::Server, &[], "openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=server"]);
    openssl.args(["-addext", &format!("subjectAltName=IP:{SERVER}")]);
    openssl.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
    let output = openssl.output().expect("nsenter");
    assert!(output.status.success(), "{:?}", text(&output));
}

fn mosquitto(lab: &Lab, folder: &Path) -> Running {
    let file = folder.join("mosquitto.conf");
    fs::write(&file, format!("user root\nlistener 1883 {SERVER}\nallow_anonymous true\n")).expect("a file");
    let mut mosquitto = lab.command(Place::Server, &[], "mosquitto");
    mosquitto.arg("-c").arg(file);
    Running::start(mosquitto)
}

fn postgres(lab: &Lab, folder: &Path) -> Running {
    let data = folder.join("data");
    // It does not run as root.
    let command = |program: &str| {
        let mut command = lab.command(Place::Server, &[], "unshare");
        command.args(["--user", "--ipc", "--map-user=1000", "--map-group=1000"]);
        command.arg(find(program).expect("beside the server")).arg("-D").arg(&data);
        command
    };
    let mut initdb = command("initdb");
    initdb.args(["-A", "trust", "-U", "somebody", "-E", "UTF8", "--locale=C", "--no-sync"]);
    let output = initdb.output().expect("nsenter");
    assert!(output.status.success(), "{:?}", text(&output));
    fs::write(data.join("pg_hba.conf"), "host all all all trust\n").expect("a file");
    let mut postgres = command("postgres");
    for setting in ["unix_socket_directories=", "dynamic_shared_memory_type=mmap", "fsync=off"] {
        postgres.args(["-c", setting]);
    }
    postgres.args(["-c", &format!("listen_addresses={SERVER}")]);
    Running::start(postgres)
}
