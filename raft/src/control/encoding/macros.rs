//! Fields made of fields: `record!` for structs, `alternatives!` for enums. The order of parts and
//! the numbers are the encoding.

/// `record!(Type, list_max, { part: Type, ... })`.
macro_rules! record {
    ($name:ty, $list_max:expr, { $($part:ident: $type:ty),* $(,)? }) => {
        impl Field for $name {
            const MIN_BYTES: usize = 0 $(+ <$type as Field>::MIN_BYTES)*;
            const LIST_MAX: usize = $list_max;

            fn put(&self, writer: &mut Writer) {
                $(<$type as Field>::put(&self.$part, writer);)*
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                $(let $part = <$type as Field>::read(reader)?;)*
                Ok(Self { $($part),* })
            }
        }
    };
}

/// `newtype!(Type(Inner), list_max)`.
macro_rules! newtype {
    ($name:ident($type:ty), $list_max:expr) => {
        impl Field for $name {
            const MIN_BYTES: usize = <$type as Field>::MIN_BYTES;
            const LIST_MAX: usize = $list_max;

            fn put(&self, writer: &mut Writer) {
                self.0.put(writer);
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Field::read(reader).map($name)
            }
        }
    };
}

/// `alternatives!(Type, "name", list_max, { 1 => Case { part, ... }, 2 => Case(part), ... })`.
macro_rules! alternatives {
    ($name:ident, $of:literal, $list_max:expr, {
        $($number:literal => $case:ident $({ $($part:ident),* $(,)? })? $(($inner:ident))?),* $(,)?
    }) => {
        impl Field for $name {
            const MIN_BYTES: usize = 1;
            const LIST_MAX: usize = $list_max;

            fn put(&self, writer: &mut Writer) {
                match self {
                    $($name::$case $({ $($part),* })? $(($inner))? => {
                        writer.raw(&[$number]);
                        $($($part.put(writer);)*)?
                        $($inner.put(writer);)?
                    })*
                }
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match u8::read(reader)? {
                    $($number => {
                        $($(let $part = Field::read(reader)?;)*)?
                        $(let $inner = Field::read(reader)?;)?
                        Ok($name::$case $({ $($part),* })? $(($inner))?)
                    })*
                    found => Err(DecodeError::Alternative { of: $of, found }),
                }
            }
        }
    };
}
