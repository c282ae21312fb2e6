//! Operation sequences over one mailbox of ryker, its senders and its receiver.
#![cfg_attr(fuzzing, no_main)]

ron_fuzz::target!(ron_fuzz::ryker_ops);
