//! Actions on the model, and what is drawn of it.

use std::sync::Arc;

use mica_builder::look::Stack;
use mica_builder::look::instruction::{Instruction, Line};
use mica_builder::look::place::Place;
use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::layer::{Layer, Metadata};
use mica_fs::path::ImagePath;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::Rect;
use ratatui::style::Color;

use super::model::{Action, Focus, Model, Move};
use super::panel::PanelKind;
use super::tree::Mark;
use super::view::{self, Palette};

fn layer(directory: &std::path::Path, number: usize, fill: impl FnOnce(&mut LayerWriter)) -> Arc<Layer> {
    let place = directory.join(number.to_string());
    std::fs::create_dir(&place).unwrap();
    let mut writer = LayerWriter::new(&place).unwrap();
    fill(&mut writer);
    writer.finish().unwrap();
    Arc::new(Layer::open(&place).unwrap())
}

fn add(writer: &mut LayerWriter, path: &str, mode: u32, text: Option<&str>) {
    let path = ImagePath::clean(path.as_bytes()).unwrap();
    let metadata = Metadata {
        mode,
        ..Metadata::default()
    };
    let mut bytes = text.unwrap_or_default().as_bytes();
    let node = match text {
        Some(text) => NewNode::File {
            size: text.len() as u64,
            content: &mut bytes,
        },
        None => NewNode::Directory,
    };
    writer.add(&path, &metadata, node).unwrap();
}

/// Three layers: a base, a change and a removal.
pub(super) fn model() -> (tempfile::TempDir, Model) {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let layers = vec![
        layer(at, 1, |writer| {
            add(writer, "bin", 0o755, None);
            add(writer, "bin/tool", 0o755, Some("\0binary"));
            add(writer, "etc", 0o755, None);
            add(writer, "etc/conf", 0o644, Some("one\ntwo\n"));
            add(writer, "etc/deep", 0o755, None);
            add(writer, "etc/deep/file", 0o644, Some("deep"));
        }),
        layer(at, 2, |writer| {
            add(writer, "etc", 0o755, None);
            add(writer, "etc/conf", 0o600, Some("one\n2\n"));
            add(writer, "new", 0o644, Some("new"));
        }),
        layer(at, 3, |writer| {
            writer.whiteout(&ImagePath::clean(b"etc/deep").unwrap()).unwrap()
        }),
    ];
    let instruction = |(number, text): (u32, &str)| Instruction {
        text: text.to_owned(),
        line: Some(Line {
            dockerfile: "Dockerfile".to_owned(),
            number,
        }),
        ..Instruction::default()
    };
    let instructions = [(1, "ADD base"), (3, "RUN change"), (4, "RUN rm -r /etc/deep")].map(instruction);
    let place = Place {
        stack: Stack::new(layers),
        instructions: instructions.into(),
    };
    (directory, Model::new("app".to_owned(), place))
}

/// The tree as text: `~ etc/conf`, with `>` at the selected line.
fn tree(model: &Model) -> Vec<String> {
    let line = |(number, row): (usize, &super::tree::Row)| {
        let here = if number == model.tree.selected { ">" } else { "" };
        let star = if row.touched { "*" } else { "" };
        format!("{here}{}{}{star}", row.mark.sign(), row.path)
    };
    model.rows.iter().enumerate().map(line).collect()
}

fn does(model: &mut Model, actions: impl IntoIterator<Item = Action>) {
    actions.into_iter().for_each(|action| model.update(action));
}

fn screen(model: &mut Model, palette: Palette) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(100, 20)).unwrap();
    model.resize(view::areas(Rect::new(0, 0, 100, 20)).heights());
    terminal.draw(|frame| view::draw(model, palette, frame)).unwrap();
    terminal
}

pub(super) fn shown(model: &mut Model) -> String {
    let terminal = screen(model, Palette::Plain);
    let buffer = terminal.backend().buffer();
    let lines = buffer
        .content()
        .chunks(100)
        .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn the_newest_layer_comes_first_and_directories_open() {
    let (_directory, mut model) = model();
    assert_eq!(model.layer(), 3);
    assert_eq!(tree(&model), ["> /bin", " /etc*", " /new"]);
    does(
        &mut model,
        [Action::OtherFocus, Action::Move(Move::Down), Action::Open],
    );
    assert_eq!(
        tree(&model),
        [" /bin", "> /etc*", " /etc/conf", "-/etc/deep", " /new"]
    );
    // What is gone can be opened.
    does(&mut model, [Action::Move(Move::To(3)), Action::Enter]);
    assert_eq!(tree(&model)[4], "-/etc/deep/file");
    // Closing goes up first, then closes.
    does(
        &mut model,
        [Action::Move(Move::Down), Action::Close, Action::Close],
    );
    assert_eq!(tree(&model)[3], ">-/etc/deep");
    assert_eq!(model.rows.len(), 5);
}

#[test]
fn another_layer_shows_other_changes_and_keeps_what_is_open() {
    let (_directory, mut model) = model();
    model.reveal(&ImagePath::clean(b"etc/conf").unwrap());
    does(
        &mut model,
        [Action::Focus(Focus::Layers), Action::Move(Move::Down)],
    );
    assert_eq!(model.layer(), 2);
    assert_eq!(
        tree(&model),
        [" /bin", " /etc*", ">~/etc/conf", " /etc/deep", "+/new"]
    );
    does(&mut model, [Action::OnlyChanges]);
    assert_eq!(tree(&model), [" /etc*", ">~/etc/conf", "+/new"]);
    does(&mut model, [Action::Filter(Mark::Added)]);
    assert_eq!(tree(&model), [" /etc*", ">~/etc/conf"]);
    does(&mut model, [Action::OnlyChanges, Action::Aggregate]);
    assert!(
        tree(&model).iter().all(|line| line.contains('+')),
        "{:?}",
        tree(&model)
    );
    does(&mut model, [Action::Move(Move::Last)]);
    assert_eq!((model.layer(), model.compared().old), (1, 0));
}

#[test]
fn a_search_opens_what_it_finds() {
    let (_directory, mut model) = model();
    let typed = "deep".chars().map(Action::Type);
    does(
        &mut model,
        [Action::Search].into_iter().chain(typed).chain([Action::Submit]),
    );
    assert_eq!(
        model.row().map(|row| row.path.to_string()).as_deref(),
        Some("/etc/deep")
    );
    assert_eq!(model.status, "match 1 of 1");
    let typed = "/DEEP/f".chars().map(Action::Type);
    does(
        &mut model,
        [Action::Search].into_iter().chain(typed).chain([Action::Submit]),
    );
    assert_eq!(
        model.row().map(|row| row.path.to_string()).as_deref(),
        Some("/etc/deep/file")
    );
    does(&mut model, [Action::Search, Action::Type('e'), Action::Submit]);
    assert_eq!(model.matches.len(), 4);
    let first = model.row().map(|row| row.path.clone());
    does(&mut model, [Action::NextMatch, Action::PreviousMatch]);
    assert_eq!(model.row().map(|row| row.path.clone()), first);
    does(&mut model, [Action::Search, Action::Type('%'), Action::Submit]);
    assert!(model.status.contains("nothing"), "{}", model.status);
}

#[test]
fn panels_show_content_changes_history_and_waste() {
    let (_directory, mut model) = model();
    model.reveal(&ImagePath::clean(b"etc/conf").unwrap());
    let lines = |model: &Model| -> Vec<String> {
        let panel = model.panel.as_ref().unwrap();
        panel.lines.iter().map(|line| line.text.clone()).collect()
    };
    does(&mut model, [Action::Enter]);
    assert_eq!(lines(&model), ["one", "2"]);
    does(&mut model, [Action::Panel(PanelKind::History)]);
    let history = lines(&model);
    assert!(
        history[0].contains("layer 2") && history[0].contains("Dockerfile:3  RUN change"),
        "{history:?}"
    );
    assert!(
        history[1].contains("mode 0644 → 0600") && history.len() == 4,
        "{history:?}"
    );
    // The file as it was in layer 1.
    does(&mut model, [Action::Move(Move::Last), Action::Enter]);
    assert_eq!(lines(&model), ["one", "two"]);
    does(&mut model, [Action::Back, Action::Panel(PanelKind::Changes)]);
    assert_eq!(lines(&model), ["this layer does not change it"]);
    does(&mut model, [Action::Back]);
    model.select_layer(2);
    does(&mut model, [Action::Panel(PanelKind::Changes)]);
    assert!(lines(&model).contains(&"-two".to_owned()) && lines(&model).contains(&"+2".to_owned()));
    does(&mut model, [Action::Panel(PanelKind::Waste)]);
    assert!(
        lines(&model).iter().any(|line| line.contains("/etc/conf")),
        "{:?}",
        lines(&model)
    );
    // To the layer that deleted it.
    does(&mut model, [Action::Move(Move::Last), Action::Enter]);
    assert_eq!(
        (model.layer(), model.row().map(|row| row.path.to_string())),
        (3, Some("/etc/deep/file".to_owned()))
    );
    model.reveal(&ImagePath::clean(b"bin/tool").unwrap());
    does(&mut model, [Action::Panel(PanelKind::Content)]);
    assert!(
        lines(&model)[0].starts_with("00000000  00 62 69"),
        "{:?}",
        lines(&model)
    );
    does(&mut model, [Action::Quit]);
    assert!(model.panel.is_none() && !model.quit);
    does(&mut model, [Action::Quit]);
    assert!(model.quit);
}

#[test]
fn the_screen_shows_layers_and_files() {
    let (_directory, mut model) = model();
    model.reveal(&ImagePath::clean(b"etc/conf").unwrap());
    model.select_layer(2);
    assert!(model.is_busy());
    model.idle();
    assert!(!model.is_busy());
    let shown = shown(&mut model);
    for part in [
        "app: 3 layers",
        "RUN rm -r /etc/deep",
        "+1 ~1 -0",
        "Dockerfile:3  RUN change",
        "files: what layer 2 changes",
        "  0755     0:0     10B  ▾ etc/*",
        "~ 0600     0:0      6B      conf",
        "+ 0644     0:0      3B    new",
        "? help  q quit",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let (_directory, mut model) = model();
    model.select_layer(2);
    let colours = |palette| {
        let terminal = screen(&mut model, palette);
        let cells = terminal.backend().buffer().content().to_vec();
        cells
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    let mut colours = colours;
    assert!(colours(Palette::Colours));
    assert!(!colours(Palette::Plain));
}

#[test]
fn any_size_of_screen_can_be_drawn() {
    let (_directory, mut model) = model();
    for (width, height) in [(1, 1), (3, 2), (10, 5), (40, 9), (200, 60)] {
        for kind in [None, Some(PanelKind::Help), Some(PanelKind::Waste)] {
            if let Some(kind) = kind {
                model.open_panel(kind);
            }
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            model.resize(view::areas(Rect::new(0, 0, width, height)).heights());
            terminal
                .draw(|frame| view::draw(&model, Palette::Colours, frame))
                .unwrap();
            model.update(Action::Move(Move::Last));
            model.panel = None;
        }
    }
}

#[test]
fn keys_and_the_mouse_become_actions() {
    let (_directory, mut model) = model();
    let areas = view::areas(Rect::new(0, 0, 100, 20));
    model.resize(areas.heights());
    let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
    let plain = |c| key(KeyCode::Char(c), KeyModifiers::NONE);
    let of = |event: Event, model: &Model| super::keys::actions(&event, model, &areas);
    assert_eq!(of(plain('q'), &model), [Action::Quit]);
    assert_eq!(
        of(key(KeyCode::Char('c'), KeyModifiers::CONTROL), &model),
        [Action::Quit]
    );
    assert_eq!(of(plain('c'), &model), [Action::OnlyChanges]);
    model.update(Action::Search);
    assert_eq!(of(plain('q'), &model), [Action::Type('q')]);
    model.update(Action::Back);
    let click = |area: Rect, line: u16| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        Event::Mouse(MouseEvent {
            kind,
            column: area.x + 2,
            row: area.y + line,
            modifiers: KeyModifiers::NONE,
        })
    };
    let clicked = of(click(areas.tree, 1), &model);
    assert_eq!(clicked, [Action::Focus(Focus::Tree), Action::Move(Move::To(1))]);
    does(&mut model, clicked);
    assert_eq!(of(click(areas.tree, 1), &model), [Action::Enter]);
    assert_eq!(of(click(areas.layers, 2), &model)[1], Action::Move(Move::To(2)));
    // Below the last line there is nothing.
    assert_eq!(of(click(areas.tree, 12), &model), []);
    let wheel = MouseEvent {
        kind: MouseEventKind::ScrollDown,
        column: areas.tree.x,
        row: areas.tree.y,
        modifiers: KeyModifiers::NONE,
    };
    assert_eq!(
        of(Event::Mouse(wheel), &model),
        vec![Action::Scroll(Focus::Tree, Move::Down); 3]
    );
}
