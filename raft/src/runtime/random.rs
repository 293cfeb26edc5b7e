//! The random numbers openraft draws.
//!
//! Must never know: what they are for.

use super::Shared;
use rand_core::TryRng;
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;

/// Draws from the random stream of a runtime, wherever it was asked for.
pub struct RandomNumbers {
    shared: Rc<Shared>,
}

impl RandomNumbers {
    pub(super) fn new(shared: Rc<Shared>) -> RandomNumbers {
        RandomNumbers { shared }
    }
}

impl TryRng for RandomNumbers {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The upper half: the generator's better bits.
        Ok((self.shared.random.borrow_mut().next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.shared.random.borrow_mut().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.shared.random.borrow_mut().fill_bytes(bytes);
        Ok(())
    }
}

impl fmt::Debug for RandomNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomNumbers")
    }
}
