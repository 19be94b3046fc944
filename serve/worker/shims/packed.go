package shims

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
)

// A program of a Python worker is sent like this:
//
//	magic (4) | n (4, big endian) | n bytes of code | the text
//
// The code is what compile.py of this directory made of the same text, in the
// form of marshal; it is for the interpreter whose importlib.util.MAGIC_NUMBER
// is magic, and every other one compiles the text. A compiled program costs a
// start neither the 60 ms of the compiler nor a process to run it in. It comes
// from the build, never from an interpreter that a tenant has chosen.

//go:embed compiled
var compiled embed.FS

const magicSize = 4

// The programs as they are sent.
var (
	Python           = packed("python", PythonSource)
	PythonUwsgi      = packed("python_uwsgi", PythonUwsgiSource)
	PythonDecorators = packed("uwsgidecorators", PythonDecoratorsSource)
	ASGI             = packed("asgi", ASGISource)
	Green            = packed("green", GreenSource)
)

// packed returns the function that makes a program's packet. It is made anew for each
// loader: kept, the packets would be half of what a core at rest has in its heap.
func packed(name, text string) func() []byte {
	return func() []byte {
		code, err := compiled.ReadFile("compiled/" + name + ".code")
		if err != nil { // a build without the system's Python
			code = nil
		}
		return Pack(code, text)
	}
}

// Pack makes a packet of a file of compile.py, which is the SHA-256 of the text,
// the magic number and the code; one of another text is left out.
func Pack(file []byte, text string) []byte {
	sum := sha256.Sum256([]byte(text))
	magic, code := make([]byte, magicSize), []byte(nil)
	if len(file) > len(sum)+magicSize && [sha256.Size]byte(file[:len(sum)]) == sum {
		magic, code = file[len(sum):len(sum)+magicSize], file[len(sum)+magicSize:]
	}
	out := make([]byte, 0, magicSize+4+len(code)+len(text))
	out = append(out, magic...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(code)))
	out = append(out, code...)
	return append(out, text...)
}
