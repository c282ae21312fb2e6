//! The text a scrape gets: format negotiation, and encoding through `prometheus-client`.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, LabelSetEncoder,
    MetricEncoder,
};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::descriptor::{Descriptor, Kind};
use crate::histogram::{Bounds, Reading};
use crate::labels::Rendered;

/// Text format of an exposition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Prometheus text 0.0.4: what a person or an old scraper gets.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.0: with units and an end marker.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Chooses by an `Accept` header (RFC 9110): per format the most specific media range counts, the higher quality
    /// wins. Equal quality: OpenMetrics if the client named it, else Prometheus text. A header that accepts neither,
    /// or that cannot be parsed, gets Prometheus text, because a scrape that fails over a header helps nobody.
    ///
    /// ```
    /// use ron_metrics::Format;
    ///
    /// assert_eq!(Format::negotiate("*/*"), Format::Prometheus);
    /// let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    /// assert_eq!(Format::negotiate(scraper), Format::OpenMetrics);
    /// ```
    pub fn negotiate(accept: &str) -> Format {
        let open = quality(
            accept,
            "application",
            "openmetrics-text",
            &["1.0.0", "0.0.1"],
        );
        let plain = quality(accept, "text", "plain", &["0.0.4"]);
        let plain = plain.map_or(0, |plain| plain.milli);
        match open {
            Some(open) if open.milli > plain => Format::OpenMetrics,
            Some(open) if open.milli == plain && open.milli > 0 && open.named => {
                Format::OpenMetrics
            }
            _ => Format::Prometheus,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Quality {
    milli: u32,
    /// The range spelled the type out, rather than by wildcard.
    named: bool,
}

/// Quality of one media type: that of the most specific range that matches it, of equals the best.
fn quality(accept: &str, kind: &str, subtype: &str, versions: &[&str]) -> Option<Quality> {
    let mut best: Option<(u8, Quality)> = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let Some((k, s)) = parts.next().and_then(|media| media.split_once('/')) else {
            continue;
        };
        let mut specificity = match (k.trim(), s.trim()) {
            ("*", "*") => 0,
            (k, "*") if k.eq_ignore_ascii_case(kind) => 1,
            (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 2,
            _ => continue,
        };
        let mut milli = Some(1000);
        let mut matches = true;
        for parameter in parts {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("q") {
                milli = parse_quality(value);
            } else if name.trim().eq_ignore_ascii_case("version") {
                specificity = 3;
                matches = versions.contains(&value);
            }
        }
        let (true, Some(milli)) = (matches, milli) else {
            continue;
        };
        let quality = Quality {
            milli,
            named: specificity >= 2,
        };
        let better = best.map_or(true, |(seen, held)| {
            specificity > seen || (specificity == seen && milli > held.milli)
        });
        if better {
            best = Some((specificity, quality));
        }
    }
    best.map(|(_, quality)| quality)
}

/// `0`, `1`, and up to three decimals, in thousandths.
fn parse_quality(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    let thousandths = format!("{fraction:0<3}")
        .parse::<u32>()
        .ok()
        .filter(|_| digits)?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Something that has the series of one family.
pub(crate) trait Source: Send + Sync {
    fn write(&self, out: &mut SeriesWriter<'_>) -> fmt::Result;
}

/// A family as it stands in the registry.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) source: Arc<dyn Source>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.descriptor).finish()
    }
}

/// Encodes all families into `out`.
pub(crate) fn encode(entries: Vec<Entry>, format: Format, out: &mut String) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition { entries, format }));
    prometheus_client::encoding::text::encode_registry(out, &registry)?;
    match format {
        Format::Prometheus => Ok(()),
        Format::OpenMetrics => prometheus_client::encoding::text::encode_eof(out),
    }
}

#[derive(Debug)]
struct Exposition {
    entries: Vec<Entry>,
    format: Format,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Entry { descriptor, source } in &self.entries {
            let kind = match (descriptor.kind, self.format) {
                (Kind::Counter, _) => MetricType::Counter,
                (Kind::Histogram, _) => MetricType::Histogram,
                (Kind::Info, Format::OpenMetrics) => MetricType::Info,
                (Kind::Gauge | Kind::Info, _) => MetricType::Gauge,
            };
            // The encoder appends `_total`, `_info` and the unit; Prometheus text has neither units nor families.
            let unit = descriptor
                .unit()
                .filter(|_| self.format == Format::OpenMetrics);
            let name = match (self.format, unit) {
                (Format::Prometheus, _) => descriptor.name.as_str(),
                (Format::OpenMetrics, None) => descriptor.family(),
                (Format::OpenMetrics, Some(_)) => descriptor
                    .family()
                    .rsplit_once('_')
                    .map_or("", |(stem, _)| stem),
            };
            let unit = unit.map(|unit| Unit::Other(unit.to_string()));
            let help = descriptor.help.replace('\\', "\\\\");
            let metric = encoder.encode_descriptor(name, &help, unit.as_ref(), kind)?;
            source.write(&mut SeriesWriter {
                metric,
                kind: descriptor.kind,
                bounds: &descriptor.bounds,
                format: self.format,
            })?;
        }
        Ok(())
    }
}

/// Writes the samples of one family.
#[derive(Debug)]
pub struct SeriesWriter<'a> {
    metric: MetricEncoder<'a>,
    kind: Kind,
    bounds: &'a Bounds,
    format: Format,
}

/// A gauge's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl From<f64> for Number {
    /// Whole numbers print without a fraction, so that `== 1` and a grep for ` 1` both work.
    fn from(value: f64) -> Number {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() < EXACT {
            Number::Int(value as i64)
        } else {
            Number::Float(value)
        }
    }
}

impl SeriesWriter<'_> {
    /// Those of a histogram.
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds.clone()
    }

    pub(crate) fn counter<V>(&mut self, labels: Option<&Rendered>, value: V) -> fmt::Result
    where
        V: EncodeCounterValue + EncodeGaugeValue,
    {
        match self.format {
            // The name already ends in `_total`; the counter encoder would append it again.
            Format::Prometheus => with_labels(&mut self.metric, labels, |metric| {
                metric.encode_gauge(&value)
            }),
            Format::OpenMetrics => with_labels(&mut self.metric, labels, |metric| {
                metric.encode_counter(&value, None::<&Exemplar<NoLabels, f64>>)
            }),
        }
    }

    pub(crate) fn gauge(&mut self, labels: Option<&Rendered>, value: Number) -> fmt::Result {
        with_labels(&mut self.metric, labels, |metric| match value {
            Number::Int(value) => metric.encode_gauge(&value),
            Number::Float(value) => metric.encode_gauge(&value),
        })
    }

    pub(crate) fn info(&mut self, labels: &Rendered) -> fmt::Result {
        match self.format {
            Format::Prometheus => self.gauge(Some(labels), Number::Int(1)),
            Format::OpenMetrics => self.metric.encode_info(labels),
        }
    }

    pub(crate) fn histogram(
        &mut self,
        labels: Option<&Rendered>,
        bounds: &[f64],
        reading: &Reading,
    ) -> fmt::Result {
        debug_assert_eq!(self.kind, Kind::Histogram);
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(reading.buckets.iter().copied()).collect();
        let count = reading.buckets.iter().sum();
        with_labels(&mut self.metric, labels, |metric| {
            metric.encode_histogram(
                reading.sum,
                count,
                &buckets,
                None::<&HashMap<usize, Exemplar<NoLabels, f64>>>,
            )
        })
    }
}

type NoLabels = [(&'static str, &'static str); 0];

fn with_labels(
    metric: &mut MetricEncoder<'_>,
    labels: Option<&Rendered>,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    match labels {
        Some(labels) => write(&mut metric.encode_family(labels)?),
        None => write(metric),
    }
}

impl EncodeLabelSet for Rendered {
    /// One pass over text rendered when the series was made: everything up to the last label's name goes out as a
    /// key, which the encoder copies; only the last value is quoted and escaped by the encoder.
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (head, value) = self.split();
        let mut label = encoder.encode_label();
        let mut key = label.encode_label_key()?;
        key.write_str(head)?;
        let mut encoded = key.encode_label_value()?;
        encoded.write_str(&value)?;
        encoded.finish()
    }
}
