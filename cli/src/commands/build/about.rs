//! What the record of a build says of it.

use mica_builder::ledger::About;
use mica_builder::plan::Request;
use mica_builder::reference::Reference;

use super::context::Place;
use super::dockerfile::DockerfileSource;
use super::output::{Archive, Output};

/// What is built, of which Dockerfile, for which names.
pub(super) fn about(
    place: &Place,
    source: &DockerfileSource,
    request: &Request,
    outputs: &[Output],
) -> About {
    let names = outputs.iter().flat_map(|output| match output {
        Output::Store(form) | Output::Registry(form) | Output::Archive(Archive { form, .. }) => {
            form.names.as_slice()
        }
        Output::Files(_) | Output::Nothing => &[],
    });
    About {
        context: place.to_string(),
        dockerfile: source.name.clone(),
        text: String::from_utf8_lossy(&source.text).into_owned(),
        target: request.target.clone(),
        build_args: request.build_args.keys().cloned().collect(),
        names: names.map(Reference::to_string).collect(),
    }
}
