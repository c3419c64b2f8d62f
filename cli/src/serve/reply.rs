//! One reply, piece by piece.

use std::pin::Pin;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use influence_engine::batch::{Engine, Follow, FollowedToken, GenerateRequest, Generation, RequestError};
use influence_engine::chat::ReplyText;
use tokio::sync::mpsc;

/// What has become known of a reply since the last piece.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Text that is certain.
    pub(super) text: String,
    /// The tokens that were sampled, without the one that ended the turn.
    pub(super) tokens: Vec<FollowedToken>,
    /// The whole, in the last piece.
    pub(super) end: Option<Generation>,
}

/// A reply as a stream of pieces that ends with the whole, or with an error. Dropping it cancels the request. `top`
/// tokens are shown beside each.
pub(super) fn pieces(
    engine: &Engine,
    request: GenerateRequest,
    top: usize,
) -> BoxStream<'static, Result<Piece, RequestError>> {
    // The engine's thread must not wait for a slow reader. A reply's tokens bound what it can hold.
    let (sender, tokens) = mpsc::unbounded_channel();
    let text = engine.model().chat.reply_text(request.stop.clone());
    let asked = engine.clone();
    let generation = Box::pin(async move { asked.generate_followed(request, Follow { tokens: sender, top }).await });
    let reply = Reply { engine: engine.clone(), generation, tokens, text, complete: false };
    stream::unfold(reply, Reply::next).boxed()
}

struct Reply {
    engine: Engine,
    generation: Pin<Box<dyn Future<Output = Result<Generation, RequestError>> + Send>>,
    tokens: mpsc::UnboundedReceiver<FollowedToken>,
    text: ReplyText,
    complete: bool,
}

impl Reply {
    async fn next(mut self) -> Option<(Result<Piece, RequestError>, Self)> {
        if self.complete {
            return None;
        }
        let mut piece = Piece::default();
        while piece.text.is_empty() {
            tokio::select! {
                biased;
                Some(token) = self.tokens.recv() => self.take(token, &mut piece),
                result = &mut self.generation => return Some(self.end(piece, result)),
            }
        }
        // What has come meanwhile goes with it: a slow reader gets fewer, larger pieces.
        while let Ok(token) = self.tokens.try_recv() {
            self.take(token, &mut piece);
        }
        Some((Ok(piece), self))
    }

    fn take(&mut self, token: FollowedToken, piece: &mut Piece) {
        let id = token.sampled.token;
        piece.text.push_str(&self.text.push(id));
        if !self.engine.model().chat.stop_ids().contains(&id) {
            piece.tokens.push(token);
        }
    }

    fn end(
        mut self,
        mut piece: Piece,
        result: Result<Generation, RequestError>,
    ) -> (Result<Piece, RequestError>, Self) {
        self.complete = true;
        // All were sent before the reply was complete.
        while let Ok(token) = self.tokens.try_recv() {
            self.take(token, &mut piece);
        }
        let ended = result.map(|reply| {
            piece.text.push_str(self.text.rest(&reply.text));
            piece.end = Some(reply);
            piece
        });
        (ended, self)
    }
}
