//! Numbers → charts as inline SVG. Colours of text and lines are marks that the page's style replaces, so that they suit
//! dark and light; sizes suit a narrow window and grow with a wide one. Equal numbers give equal bytes.

use std::fmt::Display;
use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::{
    ChartBuilder, Circle, DrawingAreaErrorKind, FontStyle, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle,
    SVGBackend, ShapeStyle, Text, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontFamily};

use crate::inspect::markup;

/// Text, which the style gives the page's colour.
const TEXT: RGBColor = RGBColor(1, 1, 1);
/// Lines of axes and grids, likewise.
const LINE: RGBColor = RGBColor(2, 2, 2);
/// Whiskers and the line where both axes are equal, likewise.
const MARK: RGBColor = RGBColor(3, 3, 3);

/// Colours of what is drawn, as in all pages.
pub(super) const COLOURS: [RGBColor; 8] = [
    RGBColor(0x4b, 0xa3, 0xd6),
    RGBColor(0xe0, 0x9a, 0x2d),
    RGBColor(0x4f, 0xb1, 0x78),
    RGBColor(0xdd, 0x74, 0x93),
    RGBColor(0x9d, 0x84, 0xd6),
    RGBColor(0xb9, 0xac, 0x30),
    RGBColor(0x3f, 0xb0, 0xaa),
    RGBColor(0x97, 0xa3, 0xad),
];

/// What the style must say of the marks.
pub(super) const STYLE: &str = "\
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(23rem, 100%), 1fr)); gap: .75rem; }
figure { margin: 0; max-width: 40rem; padding: .6rem .7rem; background: var(--card); border-radius: .4rem; min-width: 0; }
figcaption { font-weight: 600; } figcaption small { font-weight: 400; }
figure svg { display: block; width: 100%; height: auto; }
svg [fill=\"#010101\"] { fill: var(--text); }
svg [stroke=\"#020202\"] { stroke: var(--line); } svg [stroke=\"#030303\"] { stroke: var(--soft); }
figure .legend { margin: .4rem 0 0; font-size: .85rem; }
figure .legend i { min-width: .9em; border: 0; }
";

/// Units across a chart.
const WIDTH: u32 = 440;
/// Units of a bar with its label.
const BAR: u32 = 42;
/// About 14 units high: the backend takes sizes for points.
const FONT: f64 = 17.0;

/// A bar of parts, one after the other.
pub(super) struct Bar {
    /// What stands above it on the left.
    pub label: String,
    /// And on the right.
    pub says: String,
    /// How long each part is, and its colour.
    pub parts: Vec<(f64, usize)>,
    /// Where its end may be.
    pub whisker: Option<(f64, f64)>,
}

/// What was predicted, and what was measured; both are above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub predicted: f64,
    pub measured: f64,
    pub colour: usize,
}

/// Something over time.
pub(super) struct Line {
    pub colour: usize,
    /// Place, value, and where the value may be.
    pub points: Vec<(usize, f64, (f64, f64))>,
}

type Failure = DrawingAreaErrorKind<std::io::Error>;

/// Numbers along a side of a chart, with the ticks that are named.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start).max(f64::MIN_POSITIVE);
        from.saturating_add((f64::from(to - from) * share).round() as i32)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Bars one below the other.
pub(super) fn bars(what: &str, bars: &[Bar], unit: &dyn Fn(f64) -> String) -> String {
    let length = |bar: &Bar| bar.parts.iter().map(|(part, _)| part).sum::<f64>().max(bar.whisker.map_or(0.0, |w| w.1));
    let most = bars.iter().map(length).fold(f64::MIN_POSITIVE, f64::max);
    let count = bars.len() as f64;
    drawn(what, BAR * bars.len() as u32 + 34, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_left(18)
            .margin_right(18)
            .x_label_area_size(24)
            .build_cartesian_2d(Axis { range: 0.0..most * 1.02, ticks: ticks(most) }, 0.0..count)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .bold_line_style(LINE)
            .light_line_style(LINE.mix(0.0))
            .axis_style(LINE)
            .label_style(text(HPos::Center))
            .x_label_formatter(&|x| unit(*x))
            .draw()?;
        for (i, bar) in bars.iter().enumerate() {
            let top = count - i as f64;
            let mut from = 0.0;
            let parts = bar.parts.iter().map(|&(part, colour)| {
                let corners = [(from, top - 0.48), (from + part, top - 0.9)];
                from += part;
                Rectangle::new(corners, COLOURS[colour % COLOURS.len()].filled())
            });
            chart.draw_series(parts.collect::<Vec<_>>())?;
            let whisker = bar.whisker.map(|(least, most)| {
                PathElement::new([(least, top - 0.69), (most, top - 0.69)], ShapeStyle::from(MARK).stroke_width(2))
            });
            chart.draw_series(whisker)?;
            chart.draw_series([
                Text::new(bar.label.clone(), (0.0, top - 0.44), text(HPos::Left)),
                Text::new(bar.says.clone(), (most * 1.02, top - 0.44), text(HPos::Right)),
            ])?;
        }
        Ok(())
    })
}

/// A side in powers of a number: between two ticks lies so much of one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Powers {
    /// 1, 10, 100
    Ten,
    /// 1, 4, 16
    Four,
}

impl Powers {
    fn of(self, value: f64) -> f64 {
        let log = match self {
            Powers::Ten => value.log10(),
            Powers::Four => value.log2() / 2.0,
        };
        log.clamp(-1.0, 40.0)
    }

    fn value(self, power: f64) -> f64 {
        match self {
            Powers::Ten => 10f64.powf(power),
            Powers::Four => 4f64.powf(power),
        }
    }
}

/// What was measured over what was predicted, both in powers, with the line where they are equal.
pub(super) fn against(what: &str, points: &[Point], powers: Powers, unit: &dyn Fn(f64) -> String) -> String {
    let at = |point: &Point| (powers.of(point.predicted), powers.of(point.measured));
    let logs = || points.iter().map(at).flat_map(|(x, y)| [x, y]);
    let least = logs().fold(40.0, f64::min).floor();
    let most = logs().fold(least + 1.0, f64::max).ceil();
    let ticks = || (least as i32..=most as i32).step_by(((most - least) / 5.0).ceil() as usize).map(f64::from);
    let axis = || Axis { range: least..most, ticks: ticks().collect() };
    drawn(what, 310, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(30)
            .x_label_area_size(48)
            .y_label_area_size(92)
            .build_cartesian_2d(axis(), axis())?;
        chart
            .configure_mesh()
            .bold_line_style(LINE)
            .light_line_style(LINE.mix(0.0))
            .axis_style(LINE)
            .label_style(text(HPos::Center))
            .axis_desc_style(text(HPos::Center))
            .x_desc("predicted")
            .y_desc("measured")
            .x_label_formatter(&|x| unit(powers.value(*x)))
            .y_label_formatter(&|y| unit(powers.value(*y)))
            .draw()?;
        chart.draw_series([PathElement::new([(least, least), (most, most)], ShapeStyle::from(MARK))])?;
        let dots = points.iter().map(|point| Circle::new(at(point), 4, COLOURS[point.colour % COLOURS.len()].filled()));
        chart.draw_series(dots.collect::<Vec<_>>())?;
        Ok(())
    })
}

/// Values over places that have names.
pub(super) fn lines(what: &str, names: &[String], lines: &[Line], unit: &dyn Fn(f64) -> String) -> String {
    let most = lines.iter().flat_map(|line| &line.points).map(|p| p.1.max(p.2.1)).fold(f64::MIN_POSITIVE, f64::max);
    let last = names.len().saturating_sub(1) as f64;
    // More names than these would lie over each other.
    let step = names.len().div_ceil(5).max(1);
    let keys: Vec<f64> = (0..names.len()).step_by(step).map(|i| i as f64).collect();
    drawn(what, 240, |area| {
        let mut chart =
            ChartBuilder::on(area).margin(8).x_label_area_size(24).y_label_area_size(56).build_cartesian_2d(
                Axis { range: -0.4..last + 0.4, ticks: keys },
                Axis { range: 0.0..most * 1.05, ticks: ticks(most) },
            )?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(LINE)
            .light_line_style(LINE.mix(0.0))
            .axis_style(LINE)
            .label_style(text(HPos::Center))
            .x_label_formatter(&|x| names.get(x.round().max(0.0) as usize).cloned().unwrap_or_default())
            .y_label_formatter(&|y| unit(*y))
            .draw()?;
        for line in lines {
            let colour = COLOURS[line.colour % COLOURS.len()];
            let at = |i: usize, y: f64| (i as f64, y);
            let way: Vec<(f64, f64)> = line.points.iter().map(|&(i, y, _)| at(i, y)).collect();
            chart.draw_series([PathElement::new(way.clone(), colour.stroke_width(2))])?;
            let spans = line
                .points
                .iter()
                .map(|&(i, _, (a, b))| PathElement::new([at(i, a), at(i, b)], ShapeStyle::from(MARK)));
            chart.draw_series(spans.collect::<Vec<_>>())?;
            chart.draw_series(way.into_iter().map(|at| Circle::new(at, 4, colour.filled())))?;
        }
        Ok(())
    })
}

/// About four round numbers from 0 to `most`.
fn ticks(most: f64) -> Vec<f64> {
    let power = 10f64.powf((most / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 4.5);
    let step = step.unwrap_or(most);
    (0..=5).map(|i| f64::from(i) * step).filter(|tick| *tick <= most).collect()
}

fn text(across: HPos) -> TextStyle<'static> {
    let style: TextStyle<'_> = (FontFamily::SansSerif, FONT, FontStyle::Normal).into_font().color(&TEXT);
    match across {
        HPos::Left | HPos::Right => style.pos(Pos::new(across, VPos::Bottom)),
        HPos::Center => style,
    }
}

/// The drawing with a name, or the reason why there is none.
fn drawn(
    what: &str,
    height: u32,
    draw: impl FnOnce(&plotters::drawing::DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), Failure>,
) -> String {
    let mut svg = String::new();
    let done = {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area).and_then(|()| area.present())
    };
    match done {
        Ok(()) => svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", markup(what)), 1),
        Err(why) => failed(&why),
    }
}

fn failed(why: &dyn Display) -> String {
    format!("<p>no chart: {}</p>\n", markup(&why.to_string()))
}
