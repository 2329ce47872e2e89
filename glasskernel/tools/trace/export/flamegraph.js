const W=@WIDTH@,L=@LETTER@,gs=[...document.querySelectorAll('g.b')];
function fit(g,x,w){const r=g.querySelector('rect'),t=g.querySelector('text'),n=g.dataset.n,c=Math.floor((w-4)/L);
 r.setAttribute('x',x);r.setAttribute('width',Math.max(w,0));t.setAttribute('x',x+3);
 t.textContent=c>=n.length?n:c>3?n.slice(0,c-2)+'..':'';g.style.display=w<=0?'none':''}
function zoom(z){const zx=+z.dataset.x,zw=+z.dataset.w,zy=+z.dataset.d;
 for(const g of gs){const x=+g.dataset.x,w=+g.dataset.w,d=+g.dataset.d;
  if(x+w<=zx+1e-6||x>=zx+zw-1e-6){g.style.display='none';continue}
  if(d<zy)fit(g,0,W);else fit(g,(x-zx)/zw*W,w/zw*W)}}
for(const g of gs)g.addEventListener('click',()=>zoom(g));
function find(){const p=prompt('Function (regular expression):');if(p===null)return;let e;
 try{e=new RegExp(p)}catch(x){alert(x.message);return}let ns=0;
 for(const g of gs){const h=p!==''&&e.test(g.dataset.n);g.querySelector('rect').classList.toggle('hit',h);if(h)ns++}
 document.getElementById('found').textContent=p===''?'':ns+' boxes match '+p}
document.getElementById('find').addEventListener('click',find);
document.addEventListener('keydown',k=>{if(k.key==='/'||(k.ctrlKey&&k.key==='f')){k.preventDefault();find()}});
