//! The page of a report: one HTML file that asks for nothing from outside, written as XML too. Owns its looks and words; what it
//! tells was gathered by others. Text of data and settings is escaped, whatever it holds.

use feedline::decode::RgbImage;
use feedline::event::EpochRecord;
use feedline::plot::{encode_png, escaped, line_chart_svg, shrunk};
use feedline::train::checkpoint::best_epoch;
use feedline::train::history::History;
use feedline::{Error, Result};
use feedline_recipes::recipe::{Best, Confusion, WrongSample};
use std::fmt::Write;

/// Its first bytes, by which a report is known as one.
pub const BEGIN: &str = "<!DOCTYPE html>\n<!-- A report of Feedline. -->\n";

const STYLE: &str = include_str!("style.css");

/// Nothing but what stands in the file: no script at all, and nothing from a network.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// More classes than this are no matrix on a page, but a list of the pairs that are mixed up most.
const MATRIX_CLASSES: usize = 30;
/// Rows of that list, and of the list of classes.
const LISTED: usize = 30;
/// Class names that are told in full.
const NAMED_CLASSES: usize = 200;
/// Share of the time lost waiting for data from which on it is worth a word.
const WORTH_A_WORD: f64 = 0.05;

/// The contents of a report. A part that could not be made is `None`, and `notes` say why.
pub struct Report {
    pub name: String,
    pub recipe: &'static str,
    /// The word for its samples, in the plural.
    pub samples: &'static str,
    pub history: History,
    pub best: Best,
    pub epochs_planned: u64,
    pub num_workers: usize,
    /// The data, the network and the training: a word and a line each.
    pub about: Vec<(String, String)>,
    pub classes: Vec<String>,
    pub evaluation: Option<Evaluated>,
    pub batch: Option<BatchPictures>,
    /// The words of `feedline verify`, and whether the run is proved; or why nothing can be checked.
    pub proof: std::result::Result<(String, bool), String>,
    /// Key, value, default.
    pub settings: Vec<(String, String, String)>,
    /// The parts that are left out, each with the reason, and warnings.
    pub notes: Vec<String>,
    /// Versions: a word and a line each.
    pub versions: Vec<(String, String)>,
}

/// The evaluation of a checkpoint.
pub struct Evaluated {
    /// The name of the checkpoint.
    pub checkpoint: String,
    /// Samples of the validation split.
    pub samples: u64,
    /// The words that `feedline eval` prints.
    pub text: String,
    pub confusion: Option<Confusion>,
}

/// Pictures of a training batch, each with its caption.
pub struct BatchPictures {
    pub pictures: Vec<(RgbImage, String)>,
    /// Longer side in pixels that larger ones are shrunk to.
    pub large_px: u32,
    /// Samples of the whole batch.
    pub of: usize,
}

impl Report {
    /// The page.
    ///
    /// # Errors
    /// A picture without pixels.
    pub fn html(&self) -> Result<String> {
        let name = escaped(&self.name);
        let mut page = format!(
            "{BEGIN}<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{}\"/>\n\
             <title>{name} - Feedline report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<p class=\"soft\">Feedline report of a run, recipe {}</p>\n<h1><bdi>{name}</bdi></h1>\n",
            escaped(POLICY),
            escaped(self.recipe)
        );
        for (at, sentence) in self.verdict().iter().enumerate() {
            line(
                &mut page,
                &format!("<p{}>{}</p>", if at == 0 { " class=\"lead\"" } else { "" }, escaped(&capital(sentence))),
            );
        }
        line(&mut page, "</header>");
        self.tiles(&mut page);
        if !self.notes.is_empty() {
            line(&mut page, "<div class=\"note\" role=\"note\"><b>Note</b><ul>");
            self.notes.iter().for_each(|what| line(&mut page, &format!("<li>{}</li>", escaped(what))));
            line(&mut page, "</ul></div>");
        }
        self.curves(&mut page);
        if let Some(evaluation) = &self.evaluation {
            self.evaluated(&mut page, evaluation)?;
        }
        self.batch(&mut page)?;
        self.delivery(&mut page);
        self.epochs(&mut page);
        self.setup(&mut page);
        line(&mut page, "<footer>");
        facts(&mut page, &self.versions);
        page.push_str("</footer>\n</body>\n</html>\n");
        Ok(page)
    }

    /// The name of the first metric.
    fn metric(&self) -> &str {
        self.history.metric_names.first().map_or("metric", String::as_str)
    }

    /// Describes the end of the run in sentences.
    fn verdict(&self) -> Vec<String> {
        let epochs = &self.history.epochs;
        let Some(last) = epochs.last() else { return vec!["No epoch of the run is over yet.".into()] };
        let mut sentences = Vec::new();
        if let Some(values) = self.history.first_metric() {
            let (best, name) = (self.best.of(values.iter().copied()), self.metric());
            let at = values.iter().rposition(|value| *value == best).map_or(0, |at| epochs[at].epoch);
            let end = values.last().copied().unwrap_or(f64::NAN);
            sentences.push(match epochs.len() {
                1 => format!("After one epoch {name} on the validation split is {end:.4}."),
                _ if at == last.epoch => {
                    format!("{name} on the validation split is {end:.4} in the last epoch, its best.")
                }
                _ => format!(
                    "{name} on the validation split is {best:.4} at best (epoch {at}), and {end:.4} in the last epoch."
                ),
            });
        }
        let lowest = &epochs[(best_epoch(epochs) as usize).saturating_sub(1)];
        let EpochRecord { epoch, val_loss, train_loss, .. } = lowest;
        sentences.push(match () {
            _ if epochs.len() == 1 => format!("The validation loss is {val_loss:.4}."),
            _ if *epoch == last.epoch => {
                format!("The validation loss is lowest, {val_loss:.4}, in the last epoch: more epochs may still lower it.")
            }
            _ if last.val_loss > 1.1 * val_loss && last.train_loss < *train_loss => format!(
                "The validation loss is lowest, {val_loss:.4}, in epoch {epoch}. Since then it has risen to {:.4}, while the \
                 training loss fell: the network learns its training samples by heart.",
                last.val_loss
            ),
            _ => format!("The validation loss is lowest, {val_loss:.4}, in epoch {epoch}."),
        });
        let done = epochs.len() as u64;
        if done < self.epochs_planned {
            sentences.push(format!(
                "{done} of {} epochs are done: the run is under way, or was stopped.",
                self.epochs_planned
            ));
        }
        sentences
    }

    fn tiles(&self, page: &mut String) {
        let epochs = &self.history.epochs;
        let lowest = epochs.iter().map(|record| record.val_loss).fold(f64::NAN, f64::min);
        let (speed, wait) = self.history.speed();
        let seconds = self.history.seconds();
        let mut tiles = Vec::new();
        if let Some(values) = self.history.first_metric() {
            tiles.push((format!("best {}", self.metric()), format!("{:.4}", self.best.of(values.into_iter()))));
        }
        tiles.push(("lowest val loss".into(), format!("{lowest:.4}")));
        tiles.push(("epochs".into(), format!("{} <small>of {}</small>", epochs.len(), self.epochs_planned)));
        let decimals = usize::from(speed < 10.0);
        tiles.push((format!("{}/s", self.samples), format!("{speed:.decimals$}")));
        tiles.push(("data wait".into(), format!("{:.1} %", wait * 100.0)));
        tiles.push(("time".into(), format!("{}</small>", duration(seconds).replace(' ', " <small>"))));
        if let Ok((_, proved)) = &self.proof {
            tiles.push(("delivery".into(), if *proved { "proved" } else { "not proved" }.into()));
        }
        line(page, "<dl class=\"tiles\">");
        for (name, value) in tiles {
            line(page, &format!("<div><dt>{}</dt><dd>{value}</dd></div>", escaped(&name)));
        }
        line(page, "</dl>");
    }

    fn curves(&self, page: &mut String) {
        let points = |of: &dyn Fn(&EpochRecord) -> f64| -> Vec<(f64, f64)> {
            self.history.epochs.iter().map(|record| (record.epoch as f64, of(record))).collect()
        };
        let both = [("training", "train"), ("validation", "val")];
        let mut charts = vec![(
            "loss".to_string(),
            &both[..],
            vec![points(&|record| record.train_loss), points(&|record| record.val_loss)],
        )];
        if self.history.first_metric().is_some() {
            let first = |metrics: &[f64]| metrics.first().copied().unwrap_or(f64::NAN);
            let curves =
                vec![points(&|record| first(&record.train_metrics)), points(&|record| first(&record.val_metrics))];
            charts.push((self.metric().to_string(), &both[..], curves));
        }
        charts.push(("learning rate".into(), &[("last step", "train")], vec![points(&|record| record.lr)]));
        line(
            page,
            "<section><h2>Curves</h2><p class=\"soft\">Each epoch; point at a dot for its value.</p><div class=\"charts\">",
        );
        for (name, keys, curves) in charts {
            let told: Vec<String> = keys.iter().zip(&curves).map(|((key, _), points)| from_to(key, points)).collect();
            let title =
                format!("Line chart of the {name} over {} epochs: {}", self.history.epochs.len(), told.join("; "));
            let named: Vec<(&str, &[(f64, f64)])> =
                keys.iter().zip(&curves).map(|((key, _), points)| (*key, &points[..])).collect();
            let legend: String =
                keys.iter().map(|(key, class)| format!("<span class=\"key {class}\">{key}</span>")).collect();
            let svg = line_chart_svg(&title, &named);
            line(
                page,
                &format!(
                    "<figure class=\"chart\"><figcaption><b>{}</b>{legend}</figcaption>{svg}</figure>",
                    escaped(&name)
                ),
            );
        }
        line(page, "</div></section>");
    }

    fn evaluated(&self, page: &mut String, evaluation: &Evaluated) -> Result<()> {
        let Evaluated { checkpoint, samples, text, confusion } = evaluation;
        let _ = writeln!(
            page,
            "<section><h2>Evaluation</h2><p class=\"soft\">Of the checkpoint with the lowest validation loss ({}), on all \
             {samples} {} of the validation split.</p>",
            escaped(checkpoint),
            escaped(self.samples)
        );
        match confusion {
            None => line(page, &format!("<pre>{}</pre>", lines(text))),
            Some(confusion) => {
                let right: u64 = (0..confusion.classes.len()).map(|class| confusion.counts[class][class]).sum();
                let share = 100.0 * right as f64 / (*samples).max(1) as f64;
                line(page, &format!("<p>{right} of {samples} are right, {share:.2} %.</p>"));
                line(page, "<div class=\"beside\">");
                if confusion.classes.len() <= MATRIX_CLASSES {
                    matrix(page, confusion)
                } else {
                    pairs(page, confusion)
                }
                class_figures(page, confusion);
                line(page, "</div>");
                mistakes(page, confusion)?;
            }
        }
        line(page, "</section>");
        Ok(())
    }

    fn batch(&self, page: &mut String) -> Result<()> {
        let Some(BatchPictures { pictures, large_px, of }) = &self.batch else { return Ok(()) };
        let shown = if pictures.len() < *of { format!("{} of the {of}", pictures.len()) } else { format!("the {of}") };
        let _ = writeln!(
            page,
            "<section><h2>A training batch</h2><p class=\"soft\">What the network sees: {shown} pictures of the first batch \
             of the first epoch, augmented as in training.</p>"
        );
        line(page, if *large_px > 256 { "<div class=\"samples large\">" } else { "<div class=\"samples\">" });
        for (picture, caption) in pictures {
            let alt = format!("Training sample, augmented: {caption}");
            sample(page, picture, *large_px, &alt, &format!("<bdi>{}</bdi>", escaped(caption)))?;
        }
        line(page, "</div></section>");
        Ok(())
    }

    fn delivery(&self, page: &mut String) {
        line(page, "<section><h2>Data</h2><h3>Was every sample delivered?</h3>");
        match &self.proof {
            Ok((words, _)) => line(page, &format!("<pre>{}</pre>", lines(words))),
            Err(why) => line(page, &format!("<p>It cannot be said: {}</p>", escaped(why))),
        }
        let epochs = &self.history.epochs;
        let waiting: Vec<String> = epochs
            .iter()
            .filter(|record| record.data_wait_share > WORTH_A_WORD)
            .map(|record| record.epoch.to_string())
            .collect();
        let verdict = if waiting.is_empty() {
            format!("In no epoch did training wait for data for more than {:.0} % of its time.", WORTH_A_WORD * 100.0)
        } else {
            format!(
                "Training waited for data for more than {:.0} % of its time in {} of {} epochs: {}.",
                WORTH_A_WORD * 100.0,
                waiting.len(),
                epochs.len(),
                waiting.join(", ")
            )
        };
        let _ = writeln!(
            page,
            "<h3>Was the data fast enough?</h3><p>{verdict}</p><details><summary>Each epoch in words</summary><ol>"
        );
        for record in epochs {
            let verdict = record.stages.verdict(record.train_seconds, self.num_workers);
            let _ = writeln!(page, "<li value=\"{}\">{}.</li>", record.epoch, escaped(&capital(&verdict)));
        }
        line(page, "</ol></details></section>");
    }

    fn epochs(&self, page: &mut String) {
        let names = &self.history.metric_names;
        let metrics = self.history.epochs.iter().map(|record| record.val_metrics.len()).max().unwrap_or_default();
        let named = |at: usize| names.get(at).cloned().unwrap_or(format!("metric {}", at + 1));
        let head = ["epoch", "training loss", "validation loss"].map(String::from).into_iter();
        let head = head.chain((0..metrics).map(|at| format!("{} (validation)", named(at))));
        let head =
            head.chain(["learning rate".into(), format!("{}/s", self.samples), "data wait".into(), "time".into()]);
        let row = |record: &EpochRecord| -> Vec<String> {
            let EpochRecord { epoch, train_loss, val_loss, val_metrics, lr, images_per_second, .. } = record;
            let figures = [epoch.to_string(), format!("{train_loss:.4}"), format!("{val_loss:.4}")].into_iter();
            let metric = |at: usize| val_metrics.get(at).map_or("-".into(), |value| format!("{value:.4}"));
            let rest = [
                format!("{lr:.2e}"),
                format!("{images_per_second:.1}"),
                format!("{:.1} %", record.data_wait_share * 100.0),
                duration(record.train_seconds + record.val_seconds),
            ];
            figures.chain((0..metrics).map(metric)).chain(rest).collect()
        };
        line(page, "<section><h2>Epochs</h2><details><summary>All figures of all epochs</summary>");
        table(page, &head.collect::<Vec<_>>(), self.history.epochs.iter().map(row));
        line(page, "</details></section>");
    }

    fn setup(&self, page: &mut String) {
        line(page, "<section><h2>What was trained</h2>");
        facts(page, &self.about);
        if !self.classes.is_empty() {
            let shown: Vec<String> =
                self.classes.iter().take(NAMED_CLASSES).map(|name| format!("<bdi>{}</bdi>", escaped(name))).collect();
            let more = match self.classes.len().saturating_sub(NAMED_CLASSES) {
                0 => String::new(),
                more => format!(", and {more} more (classes.txt has them all)"),
            };
            let _ = writeln!(page, "<p><b>{} classes:</b> {}{more}</p>", self.classes.len(), shown.join(", "));
        }
        line(page, "<h3>Settings that differ from the defaults</h3>");
        if self.settings.is_empty() {
            line(page, "<p>None.</p>");
        } else {
            let shown = |value: &str| if value == "\"\"" { "none".into() } else { value.trim_matches('"').to_owned() };
            let rows =
                self.settings.iter().map(|(key, value, default)| vec![key.clone(), shown(value), shown(default)]);
            table(page, &["key", "value", "default"].map(String::from), rows);
        }
        line(page, "</section>");
    }
}

/// The matrix: a row for each class, the darker a cell the larger its share of the row.
fn matrix(page: &mut String, Confusion { classes, counts, .. }: &Confusion) {
    line(page, "<div><h3>Confusion matrix</h3><div class=\"wide\"><table class=\"matrix\">");
    line(page, "<thead><tr><td>true ↓<br/>predicted →</td>");
    for class in classes {
        line(page, &format!("<th scope=\"col\"><bdi>{}</bdi></th>", escaped(class)));
    }
    line(page, "</tr></thead><tbody>");
    for (class, row) in classes.iter().zip(counts) {
        let all: u64 = row.iter().sum();
        let _ = write!(page, "<tr><th scope=\"row\"><bdi>{}</bdi></th>", escaped(class));
        for &count in row {
            let share = count as f64 / all.max(1) as f64;
            let looks = match share {
                0.0 => " class=\"none\"",
                share if share > 0.8 => " class=\"full\"",
                _ => "",
            };
            let _ = write!(page, "<td{looks} style=\"--s:{share:.3}\">{count}</td>");
        }
        line(page, "</tr>");
    }
    line(page, "</tbody></table></div></div>");
}

/// The pairs of classes that are mixed up most, for a matrix that is too large.
fn pairs(page: &mut String, Confusion { classes, counts, .. }: &Confusion) {
    let cells = counts
        .iter()
        .enumerate()
        .flat_map(|(label, row)| row.iter().enumerate().map(move |(predicted, &count)| (count, label, predicted)));
    let mut pairs: Vec<_> = cells.filter(|(count, label, predicted)| *count > 0 && label != predicted).collect();
    pairs.sort_by_key(|&(count, label, predicted)| (std::cmp::Reverse(count), label, predicted));
    let _ = writeln!(
        page,
        "<div><h3>Classes that are mixed up most</h3><p class=\"soft\">{} of {} pairs; <code>feedline eval</code> writes the whole \
         matrix.</p>",
        pairs.len().min(LISTED),
        pairs.len()
    );
    let rows = pairs
        .iter()
        .take(LISTED)
        .map(|&(count, label, predicted)| vec![classes[label].clone(), classes[predicted].clone(), count.to_string()]);
    table(page, &["true", "predicted", "samples"].map(String::from), rows);
    line(page, "</div>");
}

/// Recall and precision of each class, or of those that are found least often.
fn class_figures(page: &mut String, Confusion { classes, counts, .. }: &Confusion) {
    let share = |hits: u64, all: u64| (all > 0).then(|| hits as f64 / all as f64);
    let mut rows: Vec<(Option<f64>, Vec<String>)> = (0..classes.len())
        .map(|class| {
            let (hits, samples) = (counts[class][class], counts[class].iter().sum());
            let taken: u64 = counts.iter().map(|row| row[class]).sum();
            let told = |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{share:.4}"));
            let (recall, precision) = (share(hits, samples), share(hits, taken));
            (recall, vec![classes[class].clone(), samples.to_string(), told(recall), told(precision)])
        })
        .collect();
    line(page, "<div><h3>Classes</h3>");
    if rows.len() > LISTED {
        rows.sort_by(|a, b| a.0.unwrap_or(f64::INFINITY).total_cmp(&b.0.unwrap_or(f64::INFINITY)));
        let _ = writeln!(page, "<p class=\"soft\">The {LISTED} of {} with the lowest recall.</p>", rows.len());
    }
    let rows = rows.into_iter().take(LISTED).map(|(_, row)| row);
    table(page, &["class", "samples", "recall", "precision"].map(String::from), rows);
    line(page, "</div>");
}

fn mistakes(page: &mut String, Confusion { classes, mistakes, .. }: &Confusion) -> Result<()> {
    line(page, "<h3>Worst mistakes</h3>");
    if mistakes.is_empty() {
        line(page, "<p>None: every sample is taken for its own class.</p>");
        return Ok(());
    }
    line(
        page,
        "<p class=\"soft\">Those that the network is most sure of. Look whether the label is right.</p><div class=\"samples\">",
    );
    for WrongSample { location, label, predicted, probability, picture } in mistakes {
        let (is, taken) = (&classes[*label], &classes[*predicted]);
        let percent = probability * 100.0;
        let alt = format!("{location}: its class is {is}, predicted {taken} with {percent:.1} %");
        // The file and its folder; the whole place is told on pointing at it.
        let from = location.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
        let caption = format!(
            "<b><bdi>{}</bdi></b>, predicted <b><bdi>{}</bdi></b> with {percent:.1} %<small title=\"{}\"><bdi>{}</bdi></small>",
            escaped(is),
            escaped(taken),
            escaped(location),
            escaped(&location[from..])
        );
        sample(page, picture, 256, &alt, &caption)?;
    }
    line(page, "</div>");
    Ok(())
}

/// A picture with its caption, which is HTML.
fn sample(page: &mut String, picture: &RgbImage, large_px: u32, alt: &str, caption: &str) -> Result<()> {
    let longer = picture.width_px.max(picture.height_px);
    // The page enlarges small pictures itself.
    let picture = if longer > large_px { &shrunk(picture, large_px) } else { picture };
    let (width, height) = (picture.width_px, picture.height_px);
    let small = if longer < 128 { " small" } else { "" };
    let data = base64(&encode_png(picture)?);
    line(
        page,
        &format!(
            "<figure class=\"sample{small}\"><img width=\"{width}\" height=\"{height}\" alt=\"{}\" \
             src=\"data:image/png;base64,{data}\"/><figcaption>{caption}</figcaption></figure>",
            escaped(alt)
        ),
    );
    Ok(())
}

/// A table of texts; the first column names the rows.
fn table(page: &mut String, head: &[String], rows: impl Iterator<Item = Vec<String>>) {
    line(page, "<div class=\"wide\"><table><thead><tr>");
    for (at, cell) in head.iter().enumerate() {
        let left = if at == 0 { " class=\"left\"" } else { "" };
        let _ = write!(page, "<th scope=\"col\"{left}>{}</th>", escaped(cell));
    }
    line(page, "</tr></thead><tbody>");
    for row in rows {
        page.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let cell = escaped(cell);
            let _ = match at {
                0 => write!(page, "<th scope=\"row\"><bdi>{cell}</bdi></th>"),
                _ => write!(page, "<td><bdi>{cell}</bdi></td>"),
            };
        }
        line(page, "</tr>");
    }
    line(page, "</tbody></table></div>");
}

fn facts(page: &mut String, facts: &[(String, String)]) {
    if facts.is_empty() {
        return;
    }
    line(page, "<dl class=\"facts\">");
    for (word, text) in facts {
        line(page, &format!("<dt>{}</dt><dd>{}</dd>", escaped(word), escaped(text)));
    }
    line(page, "</dl>");
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

/// Escaped, with its lines kept.
fn lines(text: &str) -> String {
    text.trim_end().lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// `training from 1.7716 to 0.0185`: what a reader hears who does not see the curve.
fn from_to(name: &str, points: &[(f64, f64)]) -> String {
    match points {
        [] => format!("{name} without a point"),
        [(_, only)] => format!("{name} {only:.4}"),
        [(_, first), .., (_, last)] => format!("{name} from {first:.4} to {last:.4}"),
    }
}

/// The sentence with a capital letter.
fn capital(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// `8.6 s`, `4:05 min` or `1:02:03 h`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{}:{:02} min", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02} h", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

/// The bytes as base64 (RFC 4648), with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| (bits << 8) | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = LETTERS[((bits >> (18 - 6 * at)) & 63) as usize] as char;
            text.push(if at <= three.len() { letter } else { '=' });
        }
    }
    text
}

/// Why something is left out, in the words of its error.
pub fn left_out(what: &str, error: &Error) -> String {
    format!("left out: {what}: {error}")
}
