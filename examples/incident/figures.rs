//! What the samples say: throughput per second, and what became of it.

use std::time::{Duration, SystemTime};

use crate::Plan;
use crate::load::{Results, Setting};

/// Throughput is back when its mean over so many seconds is.
const STEADY: usize = 3;
const BACK: f64 = 0.9;
/// A thread without a sample for so long, at the end, is stuck: a hundred service times.
const STUCK: Duration = Duration::from_secs(5);

pub(crate) struct Figures {
    pub(crate) setting: Setting,
    /// Answers a second, from `plan.before` before the cut.
    pub(crate) per_second: Vec<f64>,
    pub(crate) before: f64,
    /// The mean over the last third of the time after the cut.
    pub(crate) after: f64,
    /// Seconds from the cut to the end of the first one in which throughput was back.
    pub(crate) back: Option<usize>,
    /// Of the samples that ended after the cut: how many failed, and their times in milliseconds.
    pub(crate) errors: usize,
    pub(crate) average: i64,
    pub(crate) p99: i64,
    pub(crate) maximum: i64,
    pub(crate) stuck: usize,
}

/// Milliseconds since 1970, as the samples have it.
pub(crate) fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, milliseconds)
}

/// As the samples count.
pub(crate) fn milliseconds(time: Duration) -> i64 {
    time.as_millis() as i64
}

/// Answers in each second that is over, from `plan.before` before the cut on.
pub(crate) fn per_second(results: &Results, cut: i64, until: i64, plan: &Plan) -> Vec<f64> {
    let from = cut - milliseconds(plan.before);
    let mut seconds = vec![0.0; usize::try_from((until - from) / 1000).unwrap_or(0)];
    for sample in results.samples.iter().filter(|sample| sample.success && sample.end >= from) {
        if let Some(second) = seconds.get_mut(((sample.end - from) / 1000) as usize) {
            *second += 1.0;
        }
    }
    seconds
}

impl Figures {
    pub(crate) fn of(setting: Setting, results: &Results, cut: i64, plan: &Plan) -> Figures {
        let end = cut + milliseconds(plan.window);
        let per_second = per_second(results, cut, end, plan);
        let (before, after) = per_second.split_at(plan.before.as_secs() as usize);
        let last_third = &after[after.len() - after.len() / 3..];
        let enough = mean(before) * BACK;
        let back = after.windows(STEADY).position(|seconds| mean(seconds) >= enough).map(|second| second + 1);
        let since = results.samples.iter().filter(|sample| sample.end > cut && sample.end <= end);
        let errors = since.clone().filter(|sample| !sample.success).count();
        let mut times: Vec<i64> = since.map(|sample| sample.elapsed).collect();
        times.sort_unstable();
        let (count, sum) = (times.len() as i64, times.iter().sum::<i64>());
        let moving = results.threads.values().filter(|&&last| last > end - milliseconds(STUCK)).count();
        Figures {
            setting,
            before: mean(before),
            after: mean(last_third),
            back,
            errors,
            average: sum / count.max(1),
            p99: times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0),
            maximum: times.last().copied().unwrap_or(0),
            stuck: plan.threads.saturating_sub(moving),
            per_second,
        }
    }
}

fn mean(seconds: &[f64]) -> f64 {
    seconds.iter().sum::<f64>() / seconds.len().max(1) as f64
}
