//! The progress display of a run: a bar per epoch, a line when it is done. A consumer of events.

use crate::commands::print;
use feedline::Result;
use feedline::event::{Event, Sink};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::{Mutex, PoisonError};

/// Share of the time lost waiting for data from which on the reason is given.
const WORTH_A_WORD: f64 = 0.05;

/// Digits of a rate behind the point: rooms come by twos, pictures by hundreds.
fn decimals(per_second: f64) -> usize {
    usize::from(per_second < 10.0)
}

/// Progress: the bar on standard error, if that is a terminal, and words about the run; the line of each epoch on standard
/// output, so that a pipe keeps it.
pub struct Progress {
    bar: Mutex<ProgressBar>,
    metric: &'static str,
    num_workers: usize,
}

impl Progress {
    pub fn new(metric: &'static str, num_workers: usize) -> Progress {
        let bar = Mutex::new(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
        Progress { bar, metric, num_workers }
    }

    fn start(&self, bar: &mut ProgressBar, prefix: String, steps: u64, at: u64) {
        bar.finish_and_clear();
        *bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(8));
        let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg} eta {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(prefix);
        bar.set_position(at);
    }
}

impl Sink for Progress {
    fn emit(&self, event: &Event) -> Result<()> {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::EpochStart { epoch, epochs, steps, step, frozen, .. } => {
                let frozen = if *frozen { " (backbone frozen)" } else { "" };
                self.start(&mut bar, format!("epoch {epoch}/{epochs}{frozen}"), *steps, *step);
            }
            Event::Step { step, loss, metrics, lr, images_per_second, data_wait_share, .. } => {
                bar.set_position(*step);
                let decimals = decimals(*images_per_second);
                bar.set_message(format!(
                    "loss {loss:.4} {} {:.3} lr {lr:.1e} {images_per_second:.decimals$} img/s wait {:.0}%",
                    self.metric,
                    metrics.first().unwrap_or(&f64::NAN),
                    data_wait_share * 100.0
                ));
            }
            Event::Validate { epoch, step, steps } => {
                if *step == 1 {
                    self.start(&mut bar, format!("epoch {epoch} validation"), *steps, 0);
                }
                bar.set_position(*step);
            }
            Event::EpochEnd(record) => {
                bar.finish_and_clear();
                let first = |metrics: &[f64]| metrics.first().copied().unwrap_or(f64::NAN);
                let line = format!(
                    "epoch {:>3}  loss {:.4}  {m} {:.4}  |  val loss {:.4}  val {m} {:.4}  |  lr {:.2e}  {:.*} img/s  data wait {:.1} %  {:.1} s\n",
                    record.epoch,
                    record.train_loss,
                    first(&record.train_metrics),
                    record.val_loss,
                    first(&record.val_metrics),
                    record.lr,
                    decimals(record.images_per_second),
                    record.images_per_second,
                    record.data_wait_share * 100.0,
                    record.train_seconds + record.val_seconds,
                    m = self.metric,
                );
                // A log that cannot be written is no reason to lose the run.
                let _ = print(&line);
                if record.data_wait_share > WORTH_A_WORD {
                    feedline::say!("           {}", record.stages.verdict(record.train_seconds, self.num_workers));
                }
            }
            Event::Warning { message } | Event::Skipped { message, .. } => {
                bar.suspend(|| feedline::say!("feedline: {message}"));
            }
            Event::Replaced(bad) => bar.suspend(|| {
                feedline::say!("feedline: replaced a bad sample: {} ({}: {})", bad.location, bad.stage, bad.problem);
            }),
            _ => {}
        }
        Ok(())
    }
}
