//! Answers the index of the text that it is sent.

use anyhow::{Context as _, anyhow};
use index::Index;
use tiny_http::{Method, Response, Server};

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("api {} ({})", env!("CARGO_PKG_VERSION"), env!("REVISION"));
        return Ok(());
    }
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "0.0.0.0:8080".into());
    let server = Server::http(&address).map_err(|error| anyhow!(error)).context(address)?;
    for mut request in server.incoming_requests() {
        let answer = match (request.method(), request.url()) {
            (Method::Get, "/live") => "ok".to_owned(),
            (Method::Post, "/index") => {
                let mut text = String::new();
                request.as_reader().read_to_string(&mut text)?;
                serde_json::to_string(&Index::of(&text))?
            }
            _ => {
                request.respond(Response::from_string("no").with_status_code(404))?;
                continue;
            }
        };
        request.respond(Response::from_string(answer))?;
    }
    Ok(())
}
