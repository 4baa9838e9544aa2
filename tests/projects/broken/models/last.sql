select h.number from {{ ref('hooked') }} h join {{ ref('growing') }} g on g.number = h.number join {{ ref('promised') }} p on p.number = h.number
