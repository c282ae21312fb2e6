//! Who says what a policy says: Ed25519 (RFC 8032) over a context and the policy's canonical text, verified strictly,
//! that is without keys of small order, which have signatures that fit many texts.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use zeroize::Zeroizing;

use super::json::{hex, Cursor, Defect, Hex, Slip};
use super::policy::{length, policy, Place, Policy, DOCUMENT};

/// Stands before the text that is signed, so that no signature for anything else is one of a policy.
const CONTEXT: &[u8] = b"ron svc-rewarder policy v1\n";

/// A key that policies are verified with; as text `ed25519:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// Why a text is no [`PublicKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// Not of the form of one.
    #[error("a key is `ed25519:` and 64 of 0-9 and a-f")]
    Form,
    /// No point of the curve, or one of small order.
    #[error("the key is not a point of Ed25519 that can be trusted")]
    Weak,
}

impl PublicKey {
    fn new(bytes: &[u8; 32]) -> Result<Self, PublicKeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| PublicKeyError::Weak)?;
        match key.is_weak() {
            true => Err(PublicKeyError::Weak),
            false => Ok(PublicKey(*bytes)),
        }
    }

    fn verifies(&self, content: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(&message(content), &signature))
            .is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let digits = text.strip_prefix("ed25519:");
        let bytes = digits.and_then(hex).ok_or(PublicKeyError::Form)?;
        PublicKey::new(&bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", Hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that policies are signed with. It is overwritten when it is dropped, and never printed.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key that is made from 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The key whose seed is written as 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let seed = Zeroizing::new(hex(text)?);
        Some(SigningKey::from_seed(&seed))
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The policy that is `content`, with a signature.
    ///
    /// # Errors
    ///
    /// `content` is not a canonical policy.
    pub fn sign(&self, content: &[u8]) -> Result<Vec<u8>, Defect> {
        Policy::read(content)?;
        let signature = self.0.sign(&message(content)).to_bytes();
        let key = self.0.verifying_key();
        let tail = format!(
            r#","signature":{{"key":"{}","sig":"{}"}}}}"#,
            Hex(key.as_bytes()),
            Hex(&signature)
        );
        Ok([b"{\"policy\":", content, tail.as_bytes()].concat())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

fn message(content: &[u8]) -> Vec<u8> {
    [CONTEXT, content].concat()
}

/// Those whose policies count.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        TrustedKeys(keys.into_iter().collect())
    }
}

/// Why a policy's signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Whoever signed it is not trusted.
    #[error("the policy is signed with {key}, which is not a trusted key")]
    UnknownKey {
        /// The key that the policy names.
        key: PublicKey,
    },
    /// The key that the policy names is none.
    #[error("the policy is signed with a key that cannot be one: {0}")]
    Key(#[from] PublicKeyError),
    /// The signature is not one of this policy with this key.
    #[error("the policy is not what was signed with {key}: the signature is forged or the policy was changed")]
    Forged {
        /// The key that the policy names.
        key: PublicKey,
    },
}

/// A policy as it is stored. What it says is not to be believed before [`verify`](SignedPolicy::verify).
#[derive(Clone, Debug)]
pub struct SignedPolicy {
    policy: Policy,
    content: Vec<u8>,
    key: [u8; 32],
    signature: [u8; 64],
}

impl SignedPolicy {
    /// Reads `{"policy":{..},"signature":{"key":"..","sig":".."}}`.
    ///
    /// # Errors
    ///
    /// The text is not canonical, or its policy contradicts itself.
    pub fn read(bytes: &[u8]) -> Result<Self, Defect> {
        let mut place = Place::new("policy");
        let mut cursor = Cursor::new(bytes);
        let mut read = || {
            length(&cursor, bytes)?;
            cursor.field("{", "policy")?;
            let start = cursor.at();
            let policy = policy(&mut cursor, &mut place)?;
            let content = cursor.since(start).to_vec();
            place = Place::new("signature");
            cursor.field(",", "signature")?;
            place.field = "key";
            cursor.field("{", "key")?;
            let key = cursor.hex()?;
            place.field = "sig";
            cursor.field(",", "sig")?;
            let signature = cursor.hex()?;
            place = Place::new("");
            cursor.token("}}")?;
            cursor.end()?;
            Ok(SignedPolicy {
                policy,
                content,
                key,
                signature,
            })
        };
        let signed: Result<_, Slip> = read();
        signed.map_err(|slip| slip.at(DOCUMENT, place.path()))
    }

    /// The key it names, if it is one.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn key(&self) -> Result<PublicKey, PublicKeyError> {
        PublicKey::new(&self.key)
    }

    /// The policy, if one of these keys signed it.
    ///
    /// # Errors
    ///
    /// None of them did.
    pub fn verify(self, trusted: &TrustedKeys) -> Result<Policy, SignatureError> {
        let key = self.key()?;
        if !trusted.0.contains(&key) {
            return Err(SignatureError::UnknownKey { key });
        }
        match key.verifies(&self.content, &self.signature) {
            true => Ok(self.policy),
            false => Err(SignatureError::Forged { key }),
        }
    }
}
