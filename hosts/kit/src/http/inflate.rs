//! Bodies that come compressed, and are not to be more than they look.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::MapErr;
use http_body_util::{BodyDataStream, BodyExt};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::yield_now;
use tokio_util::io::StreamReader;

/// A body may become so many times as large.
const RATIO_MAX: u64 = 10;
/// As much is let through whatever it came from: a few zeros compress better than any bomb.
const HARMLESS: u64 = 64 << 10;
/// What is inflated before the task gives way: 0.3 ms of gzip (docs/micronode.md).
const PIECE: usize = 64 << 10;
/// The window of a zstd frame as a power of two: the 8 MiB that RFC 8878 has every decoder support, and no more.
const WINDOW_LOG_MAX: u32 = 23;

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Zstd,
}

/// What a client may say in `Content-Encoding`, for the answer to one that said something else.
pub(crate) const ACCEPTED: &str = "gzip, zstd";

impl Coding {
    /// `Ok(None)` for a body as it is; `Err` for a coding that is unknown, or for several.
    pub(crate) fn of<'a>(
        headers: impl IntoIterator<Item = &'a HeaderValue>,
    ) -> Result<Option<Self>, ()> {
        let mut headers = headers.into_iter();
        let Some(header) = headers.next() else {
            return Ok(None);
        };
        if headers.next().is_some() {
            return Err(());
        }
        match header.as_bytes().to_ascii_lowercase().as_slice() {
            b"identity" | b"" => Ok(None),
            b"gzip" | b"x-gzip" => Ok(Some(Self::Gzip)),
            b"zstd" => Ok(Some(Self::Zstd)),
            _ => Err(()),
        }
    }
}

/// Why nothing more comes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It became too much for what it was.
    Bomb,
    /// More came in than may.
    TooLarge,
    /// It is not what it says, or broke off.
    Broken,
}

type Reader<B> =
    StreamReader<BodyDataStream<MapErr<Counted<B>, fn(<B as Body>::Error) -> io::Error>>, Bytes>;

/// Inflates a body piece by piece.
pub(crate) struct Inflate {
    decoder: Pin<Box<dyn AsyncRead + Send>>,
    /// Bytes that came in.
    taken: Arc<AtomicU64>,
    /// Of which there may be so many.
    most: u64,
    given: u64,
}

impl Inflate {
    /// Takes at most `most` bytes in.
    pub(crate) fn new<B>(body: B, coding: Coding, most: u64) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            body: Box::pin(body),
            taken: Arc::clone(&taken),
            most,
        };
        let failed: fn(B::Error) -> io::Error = |error| io::Error::other(error);
        let reader: Reader<B> = StreamReader::new(BodyDataStream::new(counted.map_err(failed)));
        let decoder: Pin<Box<dyn AsyncRead + Send>> = match coding {
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Coding::Zstd => {
                let window = DParameter::window_log_max(WINDOW_LOG_MAX);
                let mut decoder = ZstdDecoder::with_params(reader, &[window]);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        };
        Self {
            decoder,
            taken,
            most,
            given: 0,
        }
    }

    /// The next piece, `None` at the end.
    ///
    /// # Cancel safety
    /// Dropped, a piece may be lost: whoever gives up reads no more.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = self.decoder.read_buf(&mut piece).await;
        let taken = self.taken.load(Ordering::Relaxed);
        let count = match read {
            // Where it was cut may look like its end.
            Ok(0) | Err(_) if taken > self.most => return Err(Fault::TooLarge),
            Err(_) => return Err(Fault::Broken),
            Ok(0) => return Ok(None),
            Ok(count) => count,
        };
        // The next may be there already, however many there are.
        yield_now().await;
        self.given += count as u64;
        if self.given > HARMLESS && self.given > RATIO_MAX * taken {
            return Err(Fault::Bomb);
        }
        Ok(Some(piece.freeze()))
    }
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate")
            .field("taken", &self.taken)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

/// Counts what it passes on, and ends where that is too much: what is cut short is an error of the decoder.
struct Counted<B> {
    body: Pin<Box<B>>,
    taken: Arc<AtomicU64>,
    most: u64,
}

impl<B: Body<Data = Bytes>> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.taken.load(Ordering::Relaxed) > self.most {
            return Poll::Ready(None);
        }
        let polled = self.body.as_mut().poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.taken.fetch_add(length, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
    use http_body_util::Full;
    use tokio::io::AsyncWriteExt;

    async fn coded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut encoder = GzipEncoder::new(Vec::new());
                encoder.write_all(bytes).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new());
                encoder.write_all(bytes).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }
        }
    }

    async fn inflated(coding: Coding, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let mut inflate = Inflate::new(Full::new(Bytes::from(bytes)), coding, u64::MAX);
        let mut all = Vec::new();
        while let Some(piece) = inflate.piece().await? {
            assert!(piece.len() <= PIECE);
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Of which about half is left when compressed.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 28) as u8
        };
        (0..length).map(|_| byte()).collect()
    }

    const CODINGS: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    #[tokio::test]
    async fn what_was_compressed_comes_out_as_it_was() {
        for coding in CODINGS {
            for length in [0, 1, 1_000, PIECE, 300_000] {
                let bytes = text(length);
                let got = inflated(coding, coded(coding, &bytes).await).await;
                assert!(got.as_deref() == Ok(&bytes), "{coding:?} {length}");
            }
            let mut twice = coded(coding, b"one").await;
            twice.extend(coded(coding, b"two").await);
            assert_eq!(inflated(coding, twice).await.unwrap(), b"onetwo");
        }
    }

    #[tokio::test]
    async fn a_bomb_is_stopped_before_it_is_large() {
        for coding in CODINGS {
            let bomb = coded(coding, &vec![0; 100 << 20]).await;
            let body = Full::new(Bytes::from(bomb.clone()));
            let mut inflate = Inflate::new(body, coding, u64::MAX);
            let mut given = 0;
            let fault = loop {
                match inflate.piece().await {
                    Ok(piece) => given += piece.expect("it is not at its end").len() as u64,
                    Err(fault) => break fault,
                }
            };
            assert_eq!(fault, Fault::Bomb);
            let most = HARMLESS.max(RATIO_MAX * bomb.len() as u64);
            assert!(given <= most, "{coding:?}: {given} of {most}");
        }
    }

    #[tokio::test]
    async fn a_little_may_compress_as_well_as_it_can() {
        for coding in CODINGS {
            let zeros = vec![0; HARMLESS as usize];
            assert_eq!(
                inflated(coding, coded(coding, &zeros).await).await,
                Ok(zeros)
            );
        }
    }

    #[tokio::test]
    async fn what_is_damaged_or_cut_short_is_broken() {
        for coding in CODINGS {
            let whole = coded(coding, &text(10_000)).await;
            for cut in [1, 5, whole.len() / 2, whole.len() - 1] {
                let got = inflated(coding, whole[..cut].to_vec()).await;
                assert_eq!(got, Err(Fault::Broken), "{coding:?} {cut}");
            }
            let mut followed = whole.clone();
            followed.extend_from_slice(b"something else");
            assert_eq!(inflated(coding, followed).await, Err(Fault::Broken));
            let got = inflated(coding, b"no such thing".to_vec()).await;
            assert_eq!(got, Err(Fault::Broken));
        }
        // A frame that wants a window of 128 MiB.
        let mut encoder = ZstdEncoder::with_quality_and_params(
            Vec::new(),
            async_compression::Level::Default,
            &[
                async_compression::zstd::CParameter::window_log(27),
                async_compression::zstd::CParameter::content_size_flag(false),
            ],
        );
        for _ in 0..64 {
            encoder.write_all(&text(1 << 20)).await.unwrap();
        }
        encoder.shutdown().await.unwrap();
        let got = inflated(Coding::Zstd, encoder.into_inner()).await;
        assert_eq!(got, Err(Fault::Broken));
    }

    #[tokio::test]
    async fn members_of_nothing_are_not_read_for_ever() {
        use http_body_util::StreamBody;
        use std::convert::Infallible;
        for coding in CODINGS {
            let empty = Bytes::from(coded(coding, b"").await);
            let endless = Endless(empty);
            let body = StreamBody::new(endless);
            let mut inflate = Inflate::new(body, coding, 100_000);
            assert_eq!(inflate.piece().await, Err(Fault::TooLarge), "{coding:?}");
        }
        struct Endless(Bytes);
        impl futures_core::Stream for Endless {
            type Item = Result<Frame<Bytes>, Infallible>;
            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
            }
        }
    }

    #[test]
    fn codings_are_told_apart() {
        let cases = [
            ("gzip", Ok(Some(Coding::Gzip))),
            ("GZIP", Ok(Some(Coding::Gzip))),
            ("x-gzip", Ok(Some(Coding::Gzip))),
            ("zstd", Ok(Some(Coding::Zstd))),
            ("identity", Ok(None)),
            ("br", Err(())),
            ("deflate", Err(())),
            ("gzip, gzip", Err(())),
            ("identity, gzip", Err(())),
        ];
        for (header, expected) in cases {
            let header = HeaderValue::from_static(header);
            assert_eq!(Coding::of([&header]), expected, "{header:?}");
            assert_eq!(Coding::of([&header, &header]), Err(()));
        }
        assert_eq!(Coding::of([]), Ok(None));
    }
}
