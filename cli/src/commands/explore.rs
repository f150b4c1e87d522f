//! `mica explore`: a terminal interface to an image's layers and files.
//!
//! [`model`] is what is shown and how actions change it, [`keys`] makes actions of events, [`view`] draws.

use std::io::{IsTerminal as _, stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mica_builder::solver::Stop;
use ratatui::crossterm::event;

use crate::config::Context;
use crate::diagnostic::{hint, wants_color};
use crate::signals;
use crate::source::Elsewhere;

mod keys;
mod model;
mod panel;
mod terminal;
#[cfg(test)]
mod tests;
mod tree;
mod view;

use model::Model;
use terminal::{Screen, Waited};
use view::Palette;

/// How long to wait for an event before looking whether a signal came.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long nobody must ask for anything before what can wait is done.
const PAUSE: Duration = Duration::from_millis(30);

/// Look around in the layers and files of an image, in the terminal
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The layers and their instructions are on the left, the files on the right: what the selected layer adds (+),\n\
changes (~) and removes (-). ? lists the keys.\n\n\
Examples:
  mica explore app
  mica explore app@layer:3"
)]
pub struct Args {
    /// The image: a name, an ID or its first digits, IMAGE@layer:N or IMAGE@STEP
    #[arg(value_name = "IMAGE")]
    image: String,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Shows the image until its user quits.
///
/// # Errors
/// If there is no such image or no terminal.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        let error = anyhow::anyhow!("explore needs a terminal: stdin and stdout are not both one");
        return Err(hint(
            error,
            "`mica diff --tree`, `mica log` and `mica analyze` tell the same as text",
        ));
    }
    let store = context.store()?;
    let place = args.elsewhere.place(&store, &args.image)?;
    let model = Model::new(args.image, place);
    let palette = if wants_color(true) {
        Palette::Colours
    } else {
        Palette::Plain
    };
    let stop = Stop::default();
    signals::stopping_soon(&stop, || interact(model, palette, &stop))??;
    Ok(ExitCode::SUCCESS)
}

fn interact(mut model: Model, palette: Palette, stop: &Stop) -> anyhow::Result<()> {
    let mut screen = Screen::take().context("cannot set up the terminal")?;
    while !model.quit && !stop.is_stopped() {
        let size = screen
            .terminal
            .size()
            .context("cannot ask for the size of the terminal")?;
        let areas = view::areas(size.into());
        model.resize(areas.heights());
        let drawn = screen.terminal.draw(|frame| view::draw(&model, palette, frame));
        drawn.context("cannot draw on the terminal")?;
        let patience = if model.is_busy() { PAUSE } else { PATIENCE };
        match terminal::wait(patience).context("cannot read from the terminal")? {
            Waited::Gone => {
                // There is nothing to give back, and the library would print that it cannot.
                std::mem::forget(screen);
                return Ok(());
            }
            Waited::Ready => {}
            Waited::Quiet => model.idle(),
        }
        // All that has come is done before anything is drawn again.
        while event::poll(Duration::ZERO).context("cannot read from the terminal")? {
            let event = event::read().context("cannot read from the terminal")?;
            for action in keys::actions(&event, &model, &areas) {
                model.update(action);
            }
        }
    }
    Ok(())
}
