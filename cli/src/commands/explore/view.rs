//! How the model is drawn.

use mica_fs::layer::Kind;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Margin, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::model::{Cursor, Focus, Model};
use super::tree::{Mark, Row};
use crate::commands::log::title;
use crate::render::{printable, size};

/// Where the lists are on the screen, for the mouse and for scrolling.
#[derive(Clone, Copy, Default, Debug)]
pub struct Areas {
    pub layers: Rect,
    pub tree: Rect,
    pub panel: Rect,
}

impl Areas {
    /// How many lines each has.
    pub fn heights(&self) -> [usize; 3] {
        [self.layers, self.tree, self.panel].map(|area| usize::from(area.height))
    }
}

/// Whether there are colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Palette {
    Colours,
    Plain,
}

impl Palette {
    fn mark(self, mark: Mark) -> Style {
        let color = match mark {
            Mark::Same => return Style::new(),
            Mark::Added => Color::Green,
            Mark::Changed => Color::Yellow,
            Mark::Removed => Color::Red,
        };
        self.colour(color)
    }

    fn colour(self, color: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(color),
            Self::Plain => Style::new(),
        }
    }

    fn dim(self) -> Style {
        self.colour(Color::DarkGray)
    }
}

/// Where everything is on a screen of this size.
pub fn areas(screen: Rect) -> Areas {
    let [main, _] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(screen);
    let [left, right] = Layout::horizontal([Constraint::Percentage(38), Constraint::Fill(1)]).areas(main);
    let [layers, _] = Layout::vertical([Constraint::Fill(1), Constraint::Length(8)]).areas(left);
    let inside = Margin::new(1, 1);
    Areas {
        layers: layers.inner(inside),
        tree: right.inner(inside),
        panel: panel_frame(main).inner(inside),
    }
}

fn panel_frame(main: Rect) -> Rect {
    let (x, y) = (main.width / 12, main.height / 12);
    main.inner(Margin::new(x, y))
}

/// Draws the model.
pub fn draw(model: &Model, palette: Palette, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let [main, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(screen);
    let [left, right] = Layout::horizontal([Constraint::Percentage(38), Constraint::Fill(1)]).areas(main);
    let [layers, about] = Layout::vertical([Constraint::Fill(1), Constraint::Length(8)]).areas(left);
    draw_layers(model, palette, layers, frame);
    draw_about(model, palette, about, frame);
    draw_tree(model, palette, right, frame);
    draw_foot(model, palette, foot, frame);
    if model.panel.is_some() {
        draw_panel(model, palette, panel_frame(main), frame);
    }
}

fn block<'a>(name: String, is_focused: bool, palette: Palette) -> Block<'a> {
    let style = match is_focused {
        true => palette.colour(Color::Cyan).add_modifier(Modifier::BOLD),
        false => Style::new(),
    };
    Block::bordered()
        .border_style(style)
        .title(Span::styled(format!(" {name} "), style))
}

/// The lines of a list that are shown, the selected one reversed.
fn draw_list<'a>(
    area: Rect,
    cursor: Cursor,
    count: usize,
    is_focused: bool,
    line: impl Fn(usize) -> Line<'a>,
    frame: &mut Frame<'_>,
) {
    let shown = cursor.top..count.min(cursor.top + usize::from(area.height));
    for (y, number) in (area.y..).zip(shown) {
        let place = Rect::new(area.x, y, area.width, 1);
        frame.render_widget(line(number), place);
        if number == cursor.selected {
            let style = match is_focused {
                true => Style::new().add_modifier(Modifier::REVERSED),
                false => Style::new().add_modifier(Modifier::BOLD),
            };
            frame.buffer_mut().set_style(place, style);
        }
    }
}

fn draw_layers(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let is_focused = model.focus == Focus::Layers && model.panel.is_none();
    let name = format!(
        "{}: {} layers",
        printable(&model.title),
        model.stack.layers().len()
    );
    frame.render_widget(block(name, is_focused, palette), area);
    let count = model.stack.layers().len();
    let line = |number: usize| {
        let layer = count - number;
        let bytes = model.stack.layers()[layer - 1].index().tar_size();
        let told = model
            .instructions
            .get(layer - 1)
            .map(|one| one.text.clone())
            .unwrap_or_default();
        let told = printable(&told.split_whitespace().collect::<Vec<_>>().join(" "));
        let sign = if model.aggregate && number > model.layers.selected {
            "│"
        } else {
            " "
        };
        Line::from(vec![
            Span::styled(format!("{sign}{layer:>3} {:>7}  ", size(bytes)), palette.dim()),
            Span::raw(told),
        ])
    };
    draw_list(
        area.inner(Margin::new(1, 1)),
        model.layers,
        count,
        is_focused,
        line,
        frame,
    );
}

/// The selected layer in full.
fn draw_about(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let layer = model.layer();
    let counted = |mark: Mark| {
        let text = format!("{}{} ", mark.sign(), model.delta.count(mark));
        Span::styled(text, palette.mark(mark))
    };
    let mut lines = vec![Line::from(vec![
        counted(Mark::Added),
        counted(Mark::Changed),
        counted(Mark::Removed),
        Span::raw(if model.aggregate {
            " by all layers up to it"
        } else {
            ""
        }),
    ])];
    if let Some(there) = layer
        .checked_sub(1)
        .and_then(|index| model.stack.layers().get(index))
    {
        let short: String = there.diff_id().to_string().chars().take(19).collect();
        lines.push(Line::styled(short, palette.dim()));
        lines.push(Line::raw(
            model.instructions.get(layer - 1).map(title).unwrap_or_default(),
        ));
    }
    let text = Paragraph::new(lines).wrap(Wrap { trim: true });
    frame.render_widget(text.block(block(format!("layer {layer}"), false, palette)), area);
}

fn draw_tree(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let is_focused = model.focus == Focus::Tree && model.panel.is_none();
    let heights = model.compared();
    let name = match model.aggregate {
        true => format!("files: layers 1 to {}", heights.new),
        false => format!("files: what layer {} changes", heights.new),
    };
    frame.render_widget(block(name, is_focused, palette), area);
    let line = |number: usize| tree_line(model, &model.rows[number], palette);
    draw_list(
        area.inner(Margin::new(1, 1)),
        model.tree,
        model.rows.len(),
        is_focused,
        line,
        frame,
    );
}

/// `+ 0644   1.2kB  ▾ name -> target`
fn tree_line<'a>(model: &Model, row: &Row, palette: Palette) -> Line<'a> {
    let node = &row.node;
    let (arrow, slash) = match (node.kind, row.open) {
        (Kind::Directory, true) => ("▾ ", "/"),
        (Kind::Directory, false) => ("▸ ", "/"),
        _ => ("  ", ""),
    };
    let name = printable(&String::from_utf8_lossy(row.path.name().unwrap_or_default()));
    let target = match node.kind {
        Kind::Symlink => format!(" -> {}", printable(&String::from_utf8_lossy(&node.target))),
        _ => String::new(),
    };
    let bytes = model.size_of(row).map(size).unwrap_or_default();
    let meta = &node.metadata;
    let owner = format!("{}:{}", meta.uid, meta.gid);
    let star = if row.touched && row.mark == Mark::Same {
        "*"
    } else {
        ""
    };
    let style = palette.mark(row.mark);
    Line::from(vec![
        Span::styled(format!("{} ", row.mark.sign()), style),
        Span::styled(
            format!("{:04o} {owner:>7} {bytes:>7}  ", meta.mode),
            palette.dim(),
        ),
        Span::styled(
            format!("{}{arrow}{name}{slash}{target}", "  ".repeat(row.depth)),
            style,
        ),
        Span::styled(star, palette.mark(Mark::Changed)),
    ])
}

fn draw_foot(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let line = match &model.typing {
        Some(text) => Line::raw(format!("/{text}█")),
        None if model.is_reading() => Line::styled("reading…", palette.colour(Color::Cyan)),
        None if !model.status.is_empty() => {
            Line::styled(printable(&model.status), palette.colour(Color::Cyan))
        }
        None => {
            let hidden: Vec<_> = Mark::ALL
                .into_iter()
                .filter(|mark| !model.filter.shows(*mark))
                .map(Mark::name)
                .collect();
            let hidden = match hidden.is_empty() {
                true => String::new(),
                false => format!("   hidden: {}", hidden.join(", ")),
            };
            let keys = "Tab switch  a aggregate  c changes  / search  v view  d diff  H history  w waste  ? help  q quit";
            Line::from(vec![Span::styled(keys, palette.dim()), Span::raw(hidden)])
        }
    };
    frame.render_widget(line, area);
}

fn draw_panel(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    let Some(panel) = &model.panel else { return };
    frame.render_widget(Clear, area);
    frame.render_widget(block(panel.title.clone(), true, palette), area);
    let line = |number: usize| {
        let line = &panel.lines[number];
        Line::styled(
            line.text.clone(),
            line.mark.map(|mark| palette.mark(mark)).unwrap_or_default(),
        )
    };
    let inside = area.inner(Margin::new(1, 1));
    draw_list(inside, panel.cursor, panel.lines.len(), true, line, frame);
}
