//! Bytes as choices.

/// The rest of the input; zeros behind its end.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// 0 to `below` - 1.
    pub(crate) fn index(&mut self, below: usize) -> usize {
        usize::from(self.byte()) % below.max(1)
    }
}
