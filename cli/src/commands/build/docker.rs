//! Options that docker has and mica need not, or does not yet: taken where that changes nothing, refused by name
//! elsewhere.

use super::args::Args;
use super::fields::Fields;
use crate::diagnostic::{hint, usage_error};

/// Looks at them.
///
/// # Errors
/// If one asks for what there is not.
pub fn check(args: &Args) -> anyhow::Result<()> {
    let docker = &args.docker;
    for (option, value) in [("--provenance", &docker.provenance), ("--sbom", &docker.sbom)] {
        if let Some(text) = value
            && !is_disabled(option, text)?
        {
            return Err(no_attestations(&format!("{option}={text}")));
        }
    }
    for text in &docker.attest {
        if !is_disabled("--attest", text)? {
            return Err(no_attestations(&format!("--attest {text}")));
        }
    }
    match docker.builder.as_deref() {
        None | Some("" | "default") => {}
        Some(name) => {
            return Err(hint(
                usage_error(format!("--builder {name}: there is no builder of that name")),
                "mica builds by itself: leave --builder out",
            ));
        }
    }
    Ok(())
}

/// Whether an attestation is switched off: `false`, or `disabled=true` among others.
fn is_disabled(option: &'static str, text: &str) -> anyhow::Result<bool> {
    if matches!(text, "false" | "0" | "f" | "False" | "FALSE") {
        return Ok(true);
    }
    Ok(Fields::parse(option, text)?.boolean("disabled")? == Some(true))
}

fn no_attestations(option: &str) -> anyhow::Error {
    hint(
        anyhow::anyhow!("{option}: attestations are not supported yet"),
        "images are built without them: leave it out, or give --provenance=false and --sbom=false",
    )
}
