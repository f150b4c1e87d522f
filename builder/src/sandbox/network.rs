//! The network of a step, and the files that describe it.

use std::fs;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The network that a command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A loopback interface and nothing else.
    None,
    /// One of its own, connected by [pasta](https://passt.top): the world, without what is on the host's loopback
    /// interface.
    Pasta,
}

/// The paths that [`network_files`] gives contents for.
pub const NETWORK_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];

/// The address at which pasta answers name servers' requests in the host's place.
pub(super) const FORWARDED_DNS: &str = "169.254.1.1";

/// systemd-resolved's list of the servers behind its stub on 127.0.0.53.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What /etc/resolv.conf, /etc/hosts and /etc/hostname hold for the command: each path in the
/// image, with its content.
///
/// A host without a readable resolv.conf gives an empty one, as a host without name servers does.
pub fn network_files(network: Network, hostname: &str) -> Vec<(&'static str, Vec<u8>)> {
    let [resolv_conf, hosts, hostname_file] = NETWORK_FILES;
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let resolver = match network {
        Network::Host => read(resolv_conf),
        Network::Pasta => {
            let host = read(resolv_conf);
            let others = host.split_inclusive('\n');
            let others = others.filter(|line| line.split_whitespace().next() != Some("nameserver"));
            format!("nameserver {FORWARDED_DNS}\n{}", others.collect::<String>())
        }
        Network::None => {
            let host = read(resolv_conf);
            let direct = without_loopback(&host);
            // All the host's servers are stubs on its own loopback: name what stands behind.
            if direct == host || direct.contains("nameserver") {
                direct
            } else {
                format!("{direct}{}", without_loopback(&read(RESOLVED)))
            }
        }
    };
    vec![
        (resolv_conf, resolver.into_bytes()),
        (hosts, hosts_file(hostname).into_bytes()),
        (hostname_file, format!("{hostname}\n").into_bytes()),
    ]
}

/// The entries that BuildKit writes (`executor/oci/hosts.go`).
fn hosts_file(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
}

/// Drops the name servers that another network namespace cannot reach.
fn without_loopback(resolv_conf: &str) -> String {
    let reachable = |line: &&str| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return true;
        }
        let address = words
            .next()
            .and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
        address.is_none_or(|address| !address.is_loopback())
    };
    resolv_conf.split_inclusive('\n').filter(reachable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_go_and_the_rest_stays() {
        let text = "# stub\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.2\nnameserver \
                    fe80::1%eth0\noptions edns0\nsearch example.org";
        assert_eq!(
            without_loopback(text),
            "# stub\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\noptions edns0\nsearch example.org"
        );
    }

    #[test]
    fn every_file_has_contents_and_the_host_name_resolves() {
        let files = network_files(Network::Host, "box");
        assert_eq!(
            files.iter().map(|(path, _)| *path).collect::<Vec<_>>(),
            NETWORK_FILES
        );
        let hosts = String::from_utf8(files[1].1.clone()).unwrap();
        assert!(hosts.lines().any(|line| line == "127.0.0.1\tlocalhost box"));
        assert_eq!(files[2].1, b"box\n");
    }
}
