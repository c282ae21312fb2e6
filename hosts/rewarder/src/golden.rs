//! Six runs with what they come to, byte for byte: two sample policies over generated inputs of each size. Whoever
//! computes them and gets other digests has another program.

use super::generate::{inputs, Size};
use super::json::Defect;
use super::manifest::Difference;
use super::name::{EpochId, Name, NameError};
use super::policy::Policy;
use super::run::Run;
use super::signature::{PublicKeyError, SignatureError, SignedPolicy, TrustedKeys};

const SEED: u64 = 20_261_121;
const TENANT: &str = "golden";
/// Signed the sample policies, and nothing since: its private half is not kept.
const KEY: &str = include_str!("../samples/policy.pub");
const PRO_RATA: &[u8] = include_bytes!("../samples/pro-rata.policy.json");
const TARIFF: &[u8] = include_bytes!("../samples/tariff.policy.json");

/// A run and what it comes to.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Vector {
    /// How large its inputs are.
    pub size: Size,
    /// Which of the sample policies: `pro-rata` or `tariff`.
    pub policy: &'static str,
    inputs_cid: &'static str,
    policy_hash: &'static str,
    run_key: &'static str,
    commitment: &'static str,
    payout: &'static str,
    residual: &'static str,
    paid: &'static str,
}

/// What is shipped with the program is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// A sample policy is none.
    #[error(transparent)]
    Policy(#[from] Defect),
    /// A sample policy is not signed with the sample key.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The sample key is none.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Vector {
    /// Whose inputs they are.
    ///
    /// # Errors
    ///
    /// What is shipped is broken.
    pub fn run_of(&self) -> Result<(Name, EpochId), GoldenError> {
        let epoch_id = format!("golden-{}", self.size.name());
        Ok((TENANT.parse()?, epoch_id.parse()?))
    }

    /// Its inputs, generated.
    ///
    /// # Errors
    ///
    /// What is shipped is broken.
    pub fn inputs(&self) -> Result<Vec<u8>, GoldenError> {
        let (tenant, epoch_id) = self.run_of()?;
        Ok(inputs(self.size, SEED, &tenant, &epoch_id))
    }

    /// Its policy, verified.
    ///
    /// # Errors
    ///
    /// What is shipped is broken.
    pub fn policy(&self) -> Result<Policy, GoldenError> {
        let trusted: TrustedKeys = [KEY.trim_end().parse()?].into_iter().collect();
        let bytes = match self.policy {
            "tariff" => TARIFF,
            _ => PRO_RATA,
        };
        Ok(SignedPolicy::read(bytes)?.verify(&trusted)?)
    }

    /// Where `run` differs from what it should be.
    pub fn differences(&self, run: &Run) -> Vec<Difference> {
        let manifest = &run.manifest;
        let fields = [
            (
                "inputs_cid",
                self.inputs_cid,
                manifest.inputs_cid.to_string(),
            ),
            (
                "policy.hash",
                self.policy_hash,
                manifest.policy.hash.to_string(),
            ),
            ("run_key", self.run_key, manifest.run_key.to_string()),
            (
                "totals.payout",
                self.payout,
                manifest.totals.payout.to_string(),
            ),
            (
                "totals.residual",
                self.residual,
                manifest.totals.residual.to_string(),
            ),
            ("counts.paid", self.paid, manifest.counts.paid.to_string()),
            ("commitment", self.commitment, run.commitment.to_string()),
        ];
        let differ = fields.into_iter().filter(|(_, left, right)| left != right);
        differ
            .map(|(path, left, right)| Difference {
                path: path.to_owned(),
                left: left.to_owned(),
                right,
            })
            .collect()
    }
}

/// All of them, the smallest first.
pub const VECTORS: [Vector; 6] = [
    Vector {
        size: Size::S,
        policy: "pro-rata",
        inputs_cid: "b3:d02e79cec378a5c6bfa3062a48e7e6f7cb81e073a429ee882f9dcd9d12e9928a",
        policy_hash: "b3:5fa4446e9a9dd6379171d9f5b3e6bb74b1785792d43798db9a14759c97ddc0dc",
        run_key: "7f77fa57693d932d3b49a66b7911386abdad6b5619493c6bea88eb7be118cfc8",
        commitment: "b3:98b9899e4e8df5aa1413b1d0111336f0ae650027cdc676d51678b187dfd98d24",
        payout: "723820717149716664041144",
        residual: "276179282850283335958855",
        paid: "944",
    },
    Vector {
        size: Size::S,
        policy: "tariff",
        inputs_cid: "b3:d02e79cec378a5c6bfa3062a48e7e6f7cb81e073a429ee882f9dcd9d12e9928a",
        policy_hash: "b3:a121b97d6d897126c56a6c7b9d4ced781f63bda2c0b53c98d3d01ad70b42c8d7",
        run_key: "875c278acfaedffc5d6388748b189c28ea6a4f8c31c1131e5f74548beeedf22d",
        commitment: "b3:cc55b4a5f1063094dcecda8d92c7b2a2b4c3fe7cf3f6c45a582471cd244b27d7",
        payout: "780469711706578605871",
        residual: "999219530288293421394136",
        paid: "986",
    },
    Vector {
        size: Size::M,
        policy: "pro-rata",
        inputs_cid: "b3:8ec5e6a0f12d2f748918d010a55776c696dec4e0afe1ddd19830144577af8ad0",
        policy_hash: "b3:5fa4446e9a9dd6379171d9f5b3e6bb74b1785792d43798db9a14759c97ddc0dc",
        run_key: "3c87e967cde67c109acc952d265c7601a835891cc78b456a599901a92c2f7025",
        commitment: "b3:9fc96b3680ab6df4d39a31fd4995345c2b42585db86af79dd13be554e962dc10",
        payout: "999999895256292316602692",
        residual: "104743707683397307",
        paid: "9295",
    },
    Vector {
        size: Size::M,
        policy: "tariff",
        inputs_cid: "b3:8ec5e6a0f12d2f748918d010a55776c696dec4e0afe1ddd19830144577af8ad0",
        policy_hash: "b3:a121b97d6d897126c56a6c7b9d4ced781f63bda2c0b53c98d3d01ad70b42c8d7",
        run_key: "4e9723536dd1d5e4c872e67f51bdbf3c9a429e9f8ab08058e4cd11042f230ee9",
        commitment: "b3:48b22f40a1712fe627a3481891593598000f36b65f5f1095591b8c5b850be10e",
        payout: "7551520369212677067450",
        residual: "992448479630787322932557",
        paid: "9887",
    },
    Vector {
        size: Size::L,
        policy: "pro-rata",
        inputs_cid: "b3:f2030aca7c62fbbac357a33b6457e183cfae41df2c24567d38c4bfeed3009de9",
        policy_hash: "b3:5fa4446e9a9dd6379171d9f5b3e6bb74b1785792d43798db9a14759c97ddc0dc",
        run_key: "19aac1d34de5fdafc4c2896840437e5131acafb14b84b5dfeb9dc77173d5ec26",
        commitment: "b3:31611ce62e395f2f6a0e607dd7643fd2e25c9aa8422a940898616e26f97a1202",
        payout: "999999427278256308243018",
        residual: "572721743691756981",
        paid: "45487",
    },
    Vector {
        size: Size::L,
        policy: "tariff",
        inputs_cid: "b3:f2030aca7c62fbbac357a33b6457e183cfae41df2c24567d38c4bfeed3009de9",
        policy_hash: "b3:a121b97d6d897126c56a6c7b9d4ced781f63bda2c0b53c98d3d01ad70b42c8d7",
        run_key: "dbf8448e2ba22af9c86cc8a0ca1b8704596cca237c84752e2dfc2a8385768fdd",
        commitment: "b3:903578de582f73202418f9585b88451197ae633f3d61e91e3ede5e87579b2cf0",
        payout: "37563257883983184585899",
        residual: "962436742116016815414108",
        paid: "49395",
    },
];
