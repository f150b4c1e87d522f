//! Keys and the mouse, as actions.

use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::{Position, Rect};

use super::model::{Action, Focus, Model, Move};
use super::panel::PanelKind;
use super::tree::Mark;
use super::view::Areas;

/// What an event asks for, in their order.
pub fn actions(event: &Event, model: &Model, areas: &Areas) -> Vec<Action> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => {
            key_action(*key, model.typing.is_some()).into_iter().collect()
        }
        Event::Mouse(mouse) => mouse_actions(*mouse, model, areas),
        _ => Vec::new(),
    }
}

fn key_action(key: KeyEvent, is_typing: bool) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('d') => Some(Action::Move(Move::PageDown)),
            KeyCode::Char('u') => Some(Action::Move(Move::PageUp)),
            _ => None,
        };
    }
    if is_typing {
        return match key.code {
            KeyCode::Char(c) => Some(Action::Type(c)),
            KeyCode::Backspace => Some(Action::Erase),
            KeyCode::Enter => Some(Action::Submit),
            KeyCode::Esc => Some(Action::Back),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Esc => Action::Back,
        KeyCode::Tab | KeyCode::BackTab => Action::OtherFocus,
        KeyCode::Up | KeyCode::Char('k') => Action::Move(Move::Up),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(Move::Down),
        KeyCode::PageUp => Action::Move(Move::PageUp),
        KeyCode::PageDown => Action::Move(Move::PageDown),
        KeyCode::Home | KeyCode::Char('g') => Action::Move(Move::First),
        KeyCode::End | KeyCode::Char('G') => Action::Move(Move::Last),
        KeyCode::Enter => Action::Enter,
        KeyCode::Right | KeyCode::Char('l') => Action::Open,
        KeyCode::Left | KeyCode::Char('h') => Action::Close,
        KeyCode::Char(' ') => Action::Toggle,
        KeyCode::Char('a') => Action::Aggregate,
        KeyCode::Char('c') => Action::OnlyChanges,
        KeyCode::Char('1') => Action::Filter(Mark::Added),
        KeyCode::Char('2') => Action::Filter(Mark::Changed),
        KeyCode::Char('3') => Action::Filter(Mark::Removed),
        KeyCode::Char('4') => Action::Filter(Mark::Same),
        KeyCode::Char('/') => Action::Search,
        KeyCode::Char('n') => Action::NextMatch,
        KeyCode::Char('N') => Action::PreviousMatch,
        KeyCode::Char('v') => Action::Panel(PanelKind::Content),
        KeyCode::Char('d') => Action::Panel(PanelKind::Changes),
        KeyCode::Char('H') => Action::Panel(PanelKind::History),
        KeyCode::Char('w') => Action::Panel(PanelKind::Waste),
        KeyCode::Char('?') => Action::Panel(PanelKind::Help),
        _ => return None,
    })
}

fn mouse_actions(mouse: MouseEvent, model: &Model, areas: &Areas) -> Vec<Action> {
    let at = Position::new(mouse.column, mouse.row);
    let over = if areas.layers.contains(at) {
        Focus::Layers
    } else {
        Focus::Tree
    };
    match mouse.kind {
        MouseEventKind::ScrollUp => vec![Action::Scroll(over, Move::Up); 3],
        MouseEventKind::ScrollDown => vec![Action::Scroll(over, Move::Down); 3],
        MouseEventKind::Down(MouseButton::Left) => click(at, over, model, areas),
        _ => Vec::new(),
    }
}

/// A click selects, and a click on what is selected opens it.
fn click(at: Position, over: Focus, model: &Model, areas: &Areas) -> Vec<Action> {
    let line = |area: Rect, top: usize| area.contains(at).then(|| top + usize::from(at.y - area.y));
    if let Some(panel) = &model.panel {
        return match line(areas.panel, panel.cursor.top) {
            Some(number) if number == panel.cursor.selected => vec![Action::Enter],
            Some(number) => vec![Action::Move(Move::To(number))],
            None => vec![Action::Back],
        };
    }
    let (area, cursor, count) = match over {
        Focus::Layers => (areas.layers, model.layers, model.stack.layers().len()),
        Focus::Tree => (areas.tree, model.tree, model.rows.len()),
    };
    match line(area, cursor.top).filter(|number| *number < count) {
        Some(number) if number == cursor.selected && model.focus == over => vec![Action::Enter],
        Some(number) => vec![Action::Focus(over), Action::Move(Move::To(number))],
        None => Vec::new(),
    }
}
