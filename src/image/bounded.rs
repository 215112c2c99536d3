//! Decoding with a bound on memory: a message of some megabytes can describe lists of empty things that take a hundred
//! times as much when they are unpacked. Everything that an element of a list, a field or a text will take is counted
//! before the next one is made; fields count once more in the element that holds them, so the bound is on the safe side.

use std::cell::Cell;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// What any message may take, however short.
const BASE: usize = 1 << 20;
/// What a byte of a message may become. Honest ones stay below 8.
const PER_BYTE: usize = 16;
/// What no message may take more than.
const MOST: usize = 256 << 20;

/// The postcard encoding of a `T` at the start of `bytes`, and what follows it.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), postcard::Error> {
    let left = Cell::new(bytes.len().saturating_mul(PER_BYTE).saturating_add(BASE).min(MOST));
    let mut plain = postcard::Deserializer::from_bytes(bytes);
    let value = T::deserialize(Meter { inner: &mut plain, left: &left })?;
    Ok((value, plain.finalize()?))
}

/// The same for what keeps nothing of the bytes.
pub fn decode_owned<T: de::DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), postcard::Error> {
    decode(bytes)
}

/// Something of serde's, and what is left.
struct Meter<'m, D> {
    inner: D,
    left: &'m Cell<usize>,
}

impl<'m, D> Meter<'m, D> {
    fn with<E>(&self, inner: E) -> Meter<'m, E> {
        Meter { inner, left: self.left }
    }

    fn take<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| E::custom("a message that takes too much memory"))?);
        Ok(())
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        fn $name<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.with(visitor);
            self.inner.$name($($arg,)* visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Meter<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_any(); deserialize_bool(); deserialize_i8(); deserialize_i16(); deserialize_i32();
        deserialize_i64(); deserialize_i128(); deserialize_u8(); deserialize_u16(); deserialize_u32();
        deserialize_u64(); deserialize_u128(); deserialize_f32(); deserialize_f64(); deserialize_char();
        deserialize_str(); deserialize_string(); deserialize_bytes(); deserialize_byte_buf();
        deserialize_option(); deserialize_unit(); deserialize_seq(); deserialize_map();
        deserialize_identifier(); deserialize_ignored_any(); deserialize_tuple(len: usize);
        deserialize_unit_struct(name: &'static str); deserialize_newtype_struct(name: &'static str);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($name:ident: $type:ty;)*) => {$(
        fn $name<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$name(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Meter<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool: bool; visit_i8: i8; visit_i16: i16; visit_i32: i32; visit_i64: i64; visit_i128: i128;
        visit_u8: u8; visit_u16: u16; visit_u32: u32; visit_u64: u64; visit_u128: u128; visit_f32: f32;
        visit_f64: f64; visit_char: char;
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        self.take(text.len())?;
        self.inner.visit_borrowed_str(text)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.take(text.len())?;
        self.inner.visit_str(text)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        self.take(bytes.len())?;
        self.inner.visit_bytes(bytes)
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<V::Value, E> {
        self.take(bytes.len())?;
        self.inner.visit_borrowed_bytes(bytes)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<V::Value, D::Error> {
        let some = self.with(some);
        self.inner.visit_some(some)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inside: D) -> Result<V::Value, D::Error> {
        let inside = self.with(inside);
        self.inner.visit_newtype_struct(inside)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        let list = self.with(list);
        self.inner.visit_seq(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        let map = self.with(map);
        self.inner.visit_map(map)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        let data = self.with(data);
        self.inner.visit_enum(data)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Meter<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.take::<D::Error>(size_of::<S::Value>())?;
        let from = self.with(from);
        self.inner.deserialize(from)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Meter<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        let seed = self.with(seed);
        self.inner.next_element_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Meter<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let seed = self.with(seed);
        self.inner.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Self::Error> {
        let seed = self.with(seed);
        self.inner.next_value_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'm, A: EnumAccess<'de>> EnumAccess<'de> for Meter<'m, A> {
    type Error = A::Error;
    type Variant = Meter<'m, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Self::Error> {
        let left = self.left;
        let (value, inner) = self.inner.variant_seed(Meter { inner: seed, left })?;
        Ok((value, Meter { inner, left }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Meter<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Self::Error> {
        let seed = self.with(seed);
        self.inner.newtype_variant_seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        let visitor = self.with(visitor);
        self.inner.tuple_variant(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let visitor = self.with(visitor);
        self.inner.struct_variant(fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::files::FilesImage;
    use crate::image::{PageRange, TreeImage};

    #[test]
    fn decodes_as_postcard_does() {
        type Message = (Vec<PageRange>, Result<Box<TreeImage>, String>, Option<[i64; 3]>);
        let ranges = (0..5000).map(|i| PageRange::new(i << 13, (i << 13) + 4096)).collect();
        let messages: [Message; 2] = [
            (ranges, Err("why".to_owned()), None),
            (
                Vec::new(),
                Ok(Box::new(TreeImage::new(Vec::new(), FilesImage::default()))),
                Some([-2, -1, i64::MAX]),
            ),
        ];
        for message in messages {
            let mut bytes = postcard::to_stdvec(&message).unwrap();
            bytes.push(7);
            let (back, rest) = decode::<Message>(&bytes).unwrap();
            assert_eq!((back, rest), (message, &[7][..]));
        }
    }

    /// A million empty texts are a megabyte on the wire and 24 in memory; a million lists of lists no less.
    #[test]
    fn what_unpacks_too_large_is_refused_before_it_is_there() {
        let empties = |count: usize| {
            let mut bytes = postcard::to_stdvec(&(count as u64)).unwrap();
            bytes.resize(bytes.len() + count, 0);
            bytes
        };
        assert!(decode::<Vec<String>>(&empties(10_000)).is_ok());
        assert!(decode::<Vec<String>>(&empties(1_000_000)).is_err());
        assert!(decode::<Vec<Vec<Vec<u8>>>>(&empties(1_000_000)).is_err());
        // a length that is not there takes nothing
        let mut lie = postcard::to_stdvec(&u64::MAX).unwrap();
        lie.extend_from_slice(b"text");
        assert!(decode::<Vec<u64>>(&lie).is_err());
        assert!(decode::<String>(&lie).is_err());
    }
}
