//! The sources of COPY and ADD: which are paths, which lie elsewhere, and what the flags of ADD say of those.

use crate::dockerfile::{ParseError, Span};
use crate::graph::CopySource;
use crate::remote::{Checksum, Download, GitRepository, Remote};
use crate::url::Url;

/// The flags of ADD that are about sources.
pub(super) struct AddFlags<'a> {
    /// `--checksum`, and where it is.
    pub checksum: Option<(&'a str, Span)>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// A source, and what the history says of it.
pub(super) struct Planned {
    pub source: CopySource,
    pub shown: String,
}

/// Plans one source; only ADD, which has flags, takes them from elsewhere.
pub(super) fn plan(text: String, span: Span, flags: Option<&AddFlags<'_>>) -> Result<Planned, ParseError> {
    let error = |message: String| ParseError::new(span, message);
    let only_add = |what: &str| error(format!("source can't be {what} for COPY")).with_hint("ADD can");
    if let Some(repository) = GitRepository::parse(&text).map_err(|e| error(format!("{text}: {e}")))? {
        let flags = flags.ok_or_else(|| only_add("a git ref"))?;
        let shown = without_password(&text);
        let source = CopySource::Remote {
            remote: Remote::Git(with_flags(repository, span, flags)?),
            unpack: false,
        };
        return Ok(Planned { source, shown });
    }
    if !is_http(&text) {
        let shown = text.clone();
        let source = CopySource::Path(text);
        return Ok(Planned { source, shown });
    }
    let flags = flags.ok_or_else(|| only_add("a URL"))?;
    let url = Url::parse(&text).map_err(|e| error(format!("{text}: {e}")))?;
    let checksum = match flags.checksum {
        Some((text, span)) => {
            let parsed = Checksum::parse(text);
            Some(parsed.map_err(|e| ParseError::new(span, format!("--checksum={text}: {e}")))?)
        }
        None => None,
    };
    let shown = url.to_string();
    let source = CopySource::Remote {
        remote: Remote::Url(Download::new(url, checksum)),
        unpack: flags.unpack.unwrap_or(false),
    };
    Ok(Planned { source, shown })
}

/// Checks what the flags ask of all sources together.
pub(super) fn check(sources: &[Planned], flags: &AddFlags<'_>) -> Result<(), ParseError> {
    let Some((_, span)) = flags.checksum else {
        return Ok(());
    };
    match sources {
        [
            Planned {
                source: CopySource::Remote { .. },
                ..
            },
        ] => Ok(()),
        [_] => Err(ParseError::new(span, "checksum requires HTTP(S) or Git sources")),
        _ => Err(
            ParseError::new(span, "checksum can't be specified for multiple sources")
                .with_hint("write an ADD for each of them"),
        ),
    }
}

/// A repository with what the flags say of it; they must not say something else than its URL.
fn with_flags(
    mut repository: GitRepository,
    span: Span,
    flags: &AddFlags<'_>,
) -> Result<GitRepository, ParseError> {
    if let (Some(one), Some(other)) = (flags.keep_git_dir, repository.keep_git_dir)
        && one != other
    {
        return Err(ParseError::new(span, "inconsistent keep-git-dir configuration"));
    }
    repository.keep_git_dir = repository.keep_git_dir.or(flags.keep_git_dir);
    if let Some((checksum, span)) = flags.checksum {
        let message = match &repository.checksum {
            Some(own) if own != checksum => format!("checksum mismatch {checksum:?} != {own:?}"),
            _ if !checksum.bytes().all(|b| b.is_ascii_hexdigit()) => {
                format!("invalid checksum {checksum:?} for Git source, expected a commit in hexadecimal")
            }
            _ => {
                repository.checksum = Some(checksum.to_owned());
                return Ok(repository);
            }
        };
        return Err(ParseError::new(span, message));
    }
    Ok(repository)
}

fn is_http(text: &str) -> bool {
    let scheme = text
        .split("://")
        .next()
        .filter(|scheme| scheme.len() < text.len());
    scheme.is_some_and(|scheme| {
        ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

fn without_password(text: &str) -> String {
    Url::parse(text).map_or_else(|_| text.to_owned(), |url| url.to_string())
}
