//! Instruction sets, and functions that exist once for each of them.

/// The instruction set that the kernels use. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// With avx512f.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With avx2, fma and f16c.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Instructions {
    /// Every set that this machine has, the fastest first.
    pub(crate) fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                found.push(Self::Avx512);
            }
            // A virtual machine may hide any of them.
            let all = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if all && is_x86_feature_detected!("f16c") {
                found.push(Self::Avx2);
            }
        }
        found.push(Self::Portable);
        found
    }

    /// The fastest set of this machine.
    pub(crate) fn best() -> Self {
        static BEST: std::sync::OnceLock<Instructions> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }
}

/// Compiles a function for several instruction sets and picks one at run time.
macro_rules! for_each_instruction_set {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? = $body:path) => {
        $(#[$doc])*
        $vis fn $name($($arg: $kind),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn wide($($arg: $kind),*) $(-> $out)? { $body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn middle($($arg: $kind),*) $(-> $out)? { $body($($arg),*) }
                match crate::instruction_sets::Instructions::best() {
                    // SAFETY: the variant exists only where `available` detected the instructions.
                    crate::instruction_sets::Instructions::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    crate::instruction_sets::Instructions::Avx2 => return unsafe { middle($($arg),*) },
                    crate::instruction_sets::Instructions::Portable => {}
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use for_each_instruction_set;
