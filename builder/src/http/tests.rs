use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

/// A server that gives each request, in order, to `answer`: its number, its head; what it returns is sent.
fn serve(answer: impl Fn(usize, &str) -> String + Send + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut head).unwrap() > 2 {}
            // The client may have seen enough.
            let _ = stream.write_all(answer(number, &head).as_bytes());
        }
    });
    Url::parse(&format!("http://{address}/file")).unwrap()
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn body(response: Response) -> String {
    let mut text = String::new();
    response.into_reader().read_to_string(&mut text).unwrap();
    text
}

const NEVER: &dyn Fn() -> bool = &|| false;

#[test]
fn a_body_comes_with_its_headers() {
    let url = serve(|_, head| {
        assert!(head.starts_with("GET /file HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains("\r\nx-more: yes\r\n"), "{head}");
        ok("hello")
    });
    let response = Client::default()
        .get(&url, &[("X-More", "yes".to_owned())], NEVER)
        .unwrap();
    assert_eq!((response.status, response.length()), (200, Some(5)));
    assert_eq!(body(response), "hello");
}

#[test]
fn a_busy_server_is_asked_again() {
    let url = serve(|number, _| match number {
        0 => status("503 Service Unavailable\r\nRetry-After: 0"),
        1 => String::new(),
        _ => ok("at last"),
    });
    assert_eq!(body(Client::default().get(&url, &[], NEVER).unwrap()), "at last");
}

#[test]
fn what_will_not_change_is_asked_once() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let url = serve(|_, _| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        status("404 Not Found")
    });
    let error = Client::default().get(&url, &[], NEVER).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("{url}: the server answered 404 Not Found")
    );
    assert_eq!(ASKED.load(Ordering::SeqCst), 1);
}

#[test]
fn credentials_stay_with_their_host() {
    let other = serve(|_, head| {
        assert!(!head.to_lowercase().contains("authorization"), "{head}");
        ok("moved")
    });
    let target = other.clone();
    let url = serve(move |_, head| {
        assert!(head.contains("Basic bWU6c2VjcmV0"), "{head}");
        status(&format!("302 Found\r\nLocation: {target}"))
    });
    let url = Url::parse(&url.to_string().replace("http://", "http://me:secret@")).unwrap();
    let response = Client::default().get(&url, &[], NEVER).unwrap();
    assert_eq!(response.url, other);
    assert_eq!(body(response), "moved");
}

#[test]
fn redirects_end() {
    let url = serve(|_, _| status("301 Moved Permanently\r\nLocation: /again"));
    let error = Client::default().get(&url, &[], NEVER).err().unwrap();
    assert!(matches!(error, HttpError::Redirects { .. }), "{error}");
    let url = serve(|_, _| status("302 Found\r\nLocation: file:///etc/passwd"));
    let error = Client::default().get(&url, &[], NEVER).err().unwrap();
    assert!(
        matches!(error, HttpError::Url { .. } | HttpError::Scheme { .. }),
        "{error}"
    );
}

#[test]
fn a_stopped_build_asks_no_more() {
    let url = serve(|_, _| status("500 Internal Server Error"));
    let asked = AtomicUsize::new(0);
    let stopped = || asked.fetch_add(1, Ordering::SeqCst) > 0;
    let error = Client::default().get(&url, &[], &stopped).err().unwrap();
    assert!(matches!(error, HttpError::Stopped), "{error}");
}

#[test]
fn proxies_come_from_the_environment() {
    let of = |url: &str, variables: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        proxy_for(&Url::parse(url).unwrap(), &variable)
    };
    let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://p:2")];
    assert_eq!(of("https://a.example/", &both).as_deref(), Some("http://s:1"));
    assert_eq!(of("http://a.example/", &both).as_deref(), Some("http://p:2"));
    assert_eq!(of("http://127.0.0.1:8080/", &both), None);
    assert_eq!(
        of("https://a.example/", &[("ALL_PROXY", "http://all")]).as_deref(),
        Some("http://all")
    );
    for (hosts, direct) in [
        ("b.example, a.example", true),
        (".example", true),
        ("*", true),
        ("ple", false),
    ] {
        let variables = [("https_proxy", "http://s"), ("NO_PROXY", hosts)];
        assert_eq!(of("https://a.example/x", &variables).is_none(), direct, "{hosts}");
    }
}

#[test]
fn a_server_that_stops_reading_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/file", listener.local_addr().unwrap())).unwrap();
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let server = thread::spawn(move || {
        let (_unread, _) = listener.accept().unwrap();
        // Until the client has given up.
        let _ = end.recv();
    });
    let client = Client {
        patience: Some(Duration::from_millis(200)),
        ..Client::default()
    };
    let mut endless = std::io::repeat(7);
    let request = Request {
        method: Method::Patch,
        url: &url,
        headers: &[],
        body: Body::Stream(&mut endless, None),
    };
    let error = client
        .exchange(request)
        .map(|response| response.status)
        .unwrap_err();
    assert!(error.is_passing(), "{error}");
    drop(ended);
    server.join().unwrap();
}
