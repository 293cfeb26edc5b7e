//! NBD server over Ashlar volumes.
