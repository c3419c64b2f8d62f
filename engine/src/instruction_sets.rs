//! Functions that exist once for each instruction set.

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
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has just said that it has avx512f, all that `wide` asks for.
                    return unsafe { wide($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has just said that it has avx2, all that `middle` asks for.
                    return unsafe { middle($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use for_each_instruction_set;
