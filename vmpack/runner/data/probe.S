# Does this KVM run guests, or is it only there?
#
# A virtualization stack can offer a /dev/kvm that starts firmware and then emulates every
# instruction, thousands of times too slowly, or stops at the first exception in long mode. This
# program is what an operating system's first milliseconds need: long mode with paging, an exception
# through its own IDT and back, 3,000,000 dependent multiplications, SSE. It then tells the
# isa-debug-exit device at port 0xf4 what it saw: QEMU exits with 2 * code + 1.
#
#   code 0x12: right, QEMU exits with 37    0x11: no exception came    0x10 or other: wrong result
#
# It is the start of a 64 KiB ROM that the CPU sees at 0xf0000; the reset vector at the ROM's offset
# 0xfff0 jumps to its first byte. The rest of the ROM is HLT. Built and run by runner/accel.py.

.set ROM, 0xf0000
.set PML4, 0x1000                   # page tables, one 4 KiB page each, in RAM that starts zeroed
.set PDPT, 0x2000
.set PD, 0x3000
.set IDT, 0x4000
.set STACK, 0x8000
.set ROUNDS, 3000000
.set FACTOR, 0xd1342543de82ef95
.set ANSWER, 0xca9fa5ea9e1ecbb4          # of the loop below, doubled by SSE
.set EXIT_PORT, 0xf4
.set BASE_CODE, 0x10

.globl start
start:
.code16
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movl $PDPT + 3, PML4            # present, writable
    movl $PD + 3, PDPT
    movl $0x83, PD                  # one page of 2 MiB maps everything to itself
    lgdtl %cs:(gdt_pointer - start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $ROM + (protected - start)

.code32
protected:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0x620, %eax               # PAE for long mode; OSFXSR and OSXMMEXCPT for SSE
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9ffffffb, %eax          # caches on; no x87 emulation, or SSE faults
    orl $0x80000002, %eax           # paging
    movl %eax, %cr0
    ljmpl $24, $ROM + (long - start)

.code64
long:
    movl $STACK, %esp
    movl $IDT + 3 * 16, %edi        # the gate of int3: a 64-bit interrupt gate of selector 24
    movl $ROM + (handler - start), %eax
    movw %ax, (%rdi)
    movl $0x8e000018, 2(%rdi)
    shrl $16, %eax
    movw %ax, 6(%rdi)
    movq $0, 8(%rdi)
    lidt idt_pointer(%rip)
    xorl %esi, %esi                 # counts what went right
    int3

    movl $1, %eax
    movabsq $FACTOR, %rbx
    movl $ROUNDS, %ecx
1:  imulq %rbx, %rax                # each round needs the one before it
    rolq $29, %rax
    addq %rcx, %rax
    decl %ecx
    jnz 1b
    movq %rax, %xmm0
    paddq %xmm0, %xmm0
    movq %xmm0, %rax
    movabsq $ANSWER, %rdx
    cmpq %rdx, %rax
    jne 2f
    incl %esi
2:  leal BASE_CODE(%rsi), %eax
    movl $EXIT_PORT, %edx
    outl %eax, %dx
3:  hlt
    jmp 3b

handler:
    incl %esi
    iretq

.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 8: 32-bit code
    .quad 0x00cf93000000ffff        # 16: data
    .quad 0x00af9b000000ffff        # 24: 64-bit code
gdt_pointer:
    .word . - gdt - 1
    .long ROM + (gdt - start)
idt_pointer:
    .word 256 * 16 - 1
    .quad IDT
