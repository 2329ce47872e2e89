# The program of PID 1 (glasskernel/init/user_init.py), as the assembler would have it.
.intel_syntax noprefix
.globl _start
_start:
    xor edi, edi
    mov eax, 12
    syscall
    lea rdi, [rax+0x21000]
    mov eax, 12
    syscall
    lea rdi, [rip+null]
    push 2
    pop rsi
    mov eax, 2
    syscall
    xor edi, edi
    mov eax, 32
    syscall
    mov eax, 32
    syscall
    lea rdi, [rip+device]
    mov esi, 0x80002
    mov eax, 2
    syscall
    mov ebx, eax
next:
    mov edi, ebx
    mov esi, 0x4900
    mov eax, 16
    syscall
    mov eax, 58
    syscall
    test eax, eax
    jnz parent
    mov edi, ebx
    mov esi, 0x4901
    mov eax, 16
    syscall
parent:
    mov ebp, eax
reap:
    mov edi, -1
    mov rsi, rsp
    xor edx, edx
    xor r10d, r10d
    mov eax, 61
    syscall
    cmp eax, -10
    je next
    cmp eax, ebp
    jne reap
    mov edx, [rsp]
    mov edi, ebx
    mov esi, 0x4902
    mov eax, 16
    syscall
    jmp reap
null: .asciz "/dev/null"
device: .asciz "/dev/init"
