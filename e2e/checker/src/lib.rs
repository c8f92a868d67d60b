//! The frame ledger's judge: reads recorded media with a parser of its own.
