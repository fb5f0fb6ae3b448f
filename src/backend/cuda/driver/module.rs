//! Kernel texts → code for an architecture → functions of a context.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::sync::Arc;

use cudarc::driver::{result, sys as driver};
use cudarc::nvrtc::result::{NvrtcError, compile_program, create_program, destroy_program, get_program_log};
use cudarc::nvrtc::sys;

use super::{Context, Refused, told};

/// Loaded code.
#[derive(Debug)]
struct Loaded {
    context: Arc<Context>,
    module: driver::CUmodule,
}

// SAFETY: a name that any thread may use while its context is current there.
unsafe impl Send for Loaded {}
// SAFETY: it does not change.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded once, unloaded once; every function of it holds on to it.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// Code of one text.
#[derive(Clone, Debug)]
pub struct Module(Arc<Loaded>);

/// A kernel of it.
#[derive(Clone, Debug)]
pub struct Function {
    name: &'static str,
    function: driver::CUfunction,
    /// Kept loaded.
    module: Arc<Loaded>,
}

// SAFETY: as for `Loaded`.
unsafe impl Send for Function {}
// SAFETY: as for `Loaded`.
unsafe impl Sync for Function {}

impl Module {
    /// Loads code that [`compile`] made.
    ///
    /// # Errors
    /// The driver finds no code for its card.
    pub fn load(context: &Arc<Context>, code: &[u8]) -> Result<Module, Refused> {
        context.bind()?;
        let none = Refused { call: "cuModuleLoadData", status: driver::CUresult::CUDA_ERROR_INVALID_IMAGE };
        if !code.starts_with(b"\x7fELF") || code.len() < 64 {
            return Err(none);
        }
        // SAFETY: the driver reads a cubin as far as its own headers say, and refuses what is none.
        let module = told("cuModuleLoadData", unsafe { result::module::load_data(code.as_ptr().cast()) })?;
        Ok(Module(Arc::new(Loaded { context: Arc::clone(context), module })))
    }

    /// A kernel by name.
    ///
    /// # Errors
    /// There is none.
    pub fn function(&self, name: &'static str) -> Result<Function, Refused> {
        self.0.context.bind()?;
        let unknown = Refused { call: "cuModuleGetFunction", status: driver::CUresult::CUDA_ERROR_NOT_FOUND };
        let text = CString::new(name).map_err(|_| unknown)?;
        // SAFETY: the module is loaded.
        let function = told("cuModuleGetFunction", unsafe { result::module::get_function(self.0.module, text) })?;
        Ok(Function { name, function, module: Arc::clone(&self.0) })
    }
}

impl Function {
    /// Lets its blocks share so many bytes beside what it says itself.
    ///
    /// # Errors
    /// They cannot.
    pub fn share(&self, bytes: u32) -> Result<(), Refused> {
        self.module.context.bind()?;
        let attribute = driver::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of a module that is loaded.
        let set = unsafe { result::function::set_function_attribute(self.function, attribute, bytes as c_int) };
        told("cuFuncSetAttribute", set)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn handle(&self) -> driver::CUfunction {
        self.function
    }
}

/// The compiler's version.
///
/// # Errors
/// There is none; in one line.
pub fn compiler() -> Result<String, String> {
    // SAFETY: loads the library by the names that it is known under and asks for nothing of it.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVRTC is installed (libnvrtc.so was not found), which compiles kernels".into());
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes two numbers, to places for them.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().map_err(|NvrtcError(status)| format!("nvrtcVersion failed: {status:?}"))?;
    Ok(format!("{major}.{minor}"))
}

/// Fails where the compiler is older than an architecture.
///
/// # Errors
/// It is, or it does not say; in one line.
pub fn knows(architecture: u32) -> Result<(), String> {
    let failed = |NvrtcError(status): NvrtcError| format!("nvrtcGetSupportedArchs failed: {status:?}");
    let mut count = 0;
    // SAFETY: it writes one number, to a place for one.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.result().map_err(failed)?;
    let mut known = vec![0; count.max(0) as usize];
    // SAFETY: it writes as many numbers as it said.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().map_err(failed)?;
    match known.contains(&(architecture as c_int)) {
        true => Ok(()),
        false => Err(format!("NVRTC {} compiles for no sm_{architecture}, a later one is needed", compiler()?)),
    }
}

/// What a compiler made of a text.
pub struct Compiled {
    /// The code.
    pub code: Vec<u8>,
    /// What it said of it.
    pub log: String,
}

/// Compiles a text for an architecture, where there is a [`compiler`].
///
/// # Errors
/// What it says of the text.
pub fn compile(text: &str, architecture: u32, options: &[String]) -> Result<Compiled, String> {
    let text = CString::new(text).map_err(|_| "a kernel's text has a zero in it".to_owned())?;
    let failed = |call: &str, NvrtcError(status): NvrtcError| format!("{call} failed: {status:?}");
    let program = create_program(&text, None).map_err(|why| failed("nvrtcCreateProgram", why))?;
    let architecture = format!("--gpu-architecture=sm_{architecture}");
    let options: Vec<&str> = [&*architecture].into_iter().chain(options.iter().map(String::as_str)).collect();
    // SAFETY: the program was made just now, and is destroyed below, once.
    let compiled = unsafe { compile_program(program, &options) };
    // SAFETY: it exists.
    let log = unsafe { get_program_log(program) }.unwrap_or_default();
    let log: Vec<u8> = log.iter().map(|&c: &c_char| c as u8).take_while(|&c| c != 0).collect();
    let log = String::from_utf8_lossy(&log).into_owned();
    let code = match compiled {
        // SAFETY: it was compiled.
        Ok(()) => unsafe { code_of(program) }.map_err(|why| failed("nvrtcGetCUBIN", why)),
        Err(why) => Err(format!("{}: {}", failed("nvrtcCompileProgram", why), log.trim())),
    };
    // SAFETY: as above.
    unsafe { destroy_program(program) }.map_err(|why| failed("nvrtcDestroyProgram", why))?;
    code.map(|code| Compiled { code, log })
}

/// # Safety
/// The program exists and was compiled.
unsafe fn code_of(program: sys::nvrtcProgram) -> Result<Vec<u8>, NvrtcError> {
    let mut size = 0;
    // SAFETY: the caller's promise.
    unsafe { sys::nvrtcGetCUBINSize(program, &mut size) }.result()?;
    let mut code = vec![0u8; size];
    // SAFETY: as above; it writes as many bytes as it said.
    unsafe { sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()) }.result()?;
    Ok(code)
}
